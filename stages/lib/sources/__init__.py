"""Finds, reads and shapes the pictures of a data set, whatever form they come in. No TensorFlow."""
