"""Reads and writes files, whole or not at all. No TensorFlow."""
