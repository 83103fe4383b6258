"""Verify a result: run the job of a marker or a receipt again, and compare."""
