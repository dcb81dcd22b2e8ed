"""Which kernels a model has, in which order their weights stand, and how many groups each keeps."""
