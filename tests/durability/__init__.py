"""Durability: no job is lost, run twice or torn, after kills and power cuts."""
