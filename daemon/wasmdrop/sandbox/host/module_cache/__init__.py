"""The cache of modules and their machine code."""
