"""Attention: scores, softmax and product in one kernel, and its gradient, in vector or tile registers."""
