"""Matrix products: the family, how they are cut, and what emits them, in vector or tile registers."""
