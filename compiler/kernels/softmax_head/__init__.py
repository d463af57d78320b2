"""Projection over a vocabulary with its softmax, and the gradients behind it."""
