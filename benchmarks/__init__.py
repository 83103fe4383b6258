"""Benchmarks: how long a drop takes to become a marker, and how many a second."""
