"""LiteRT files: how they are made, run and timed."""
