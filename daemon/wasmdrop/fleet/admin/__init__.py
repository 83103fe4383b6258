"""Streams, rights and the state of a fleet: what its administrator makes and sees."""
