"""The world that a deterministic job sees."""
