"""Which channels of a graph are tied to each other."""
