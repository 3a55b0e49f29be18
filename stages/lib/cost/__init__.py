"""What a network costs, and how it gets cheaper: receptive field, MACs, zeros, fewer filters. No TensorFlow."""
