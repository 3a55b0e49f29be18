"""Trains a network: augmentation, batches, optimizers, checkpoints, progress, several workers."""
