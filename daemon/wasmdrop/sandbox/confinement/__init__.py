"""Confinement: takes rights away from a process before it runs a guest."""
