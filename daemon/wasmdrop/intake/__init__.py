"""Intake: notices and reads drops."""
