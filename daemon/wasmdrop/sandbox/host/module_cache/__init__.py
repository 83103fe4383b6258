"""The cache of modules and of their machine code."""
