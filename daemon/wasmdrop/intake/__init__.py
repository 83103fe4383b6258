"""Intake: reads a drop safely, judges it strictly, and makes a job of it."""
