"""Retention: removes finished jobs from the journal, and moves or removes inputs and results."""
