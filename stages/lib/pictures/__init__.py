"""What is drawn with matplotlib, because it is an image: the look, and the one way to write it."""
