"""Calls, modules and results on their way between daemon and worker, and the checks on arrival."""
