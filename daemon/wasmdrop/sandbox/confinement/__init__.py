"""Confinement: what a process gives up before it runs a guest."""
