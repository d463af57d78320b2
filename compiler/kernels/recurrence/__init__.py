"""Recurrent layers: the cells' equations, the loop over time, and the products around it."""
