"""Reads params.yaml, and refuses what is wrong in it. No TensorFlow."""
