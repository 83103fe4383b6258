"""The system: what the daemon needs of Linux."""
