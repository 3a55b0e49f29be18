"""Runs a stage: its arguments, its lock, its errors, and the record of what it took. No TensorFlow."""
