"""The page, the answers on it, and the model card. No TensorFlow."""
