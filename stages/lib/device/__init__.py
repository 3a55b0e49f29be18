"""Compiles int8 LiteRT files to C99, which needs no runtime and skips the zeros of pruned kernels. No TensorFlow."""
