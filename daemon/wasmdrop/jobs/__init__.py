"""Jobs: journals each accepted drop, schedules it, and writes its results."""
