"""The tensors themselves: taken from a forward pass, or tapped in a clone."""
