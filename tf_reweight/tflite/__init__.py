"""A `.tflite` file, without Keras: reading, executing, looking at and timing it."""
