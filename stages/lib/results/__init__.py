"""What the stages measured, side by side: rows, published numbers, fronts, tables. No TensorFlow."""
