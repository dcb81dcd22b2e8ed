"""Keras models as graphs, and copies of them: the only room that knows private names of Keras."""
