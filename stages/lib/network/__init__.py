"""Networks: their layers, how they are built, read and written, and how their answers are scored."""
