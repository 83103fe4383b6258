"""Benchmarks: the time from drop to marker, and jobs per second."""
