"""WASI functions that give a deterministic job the same answers every time."""
