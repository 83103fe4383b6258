"""Health: whether the daemon makes progress, and what it tells of it over HTTP and to systemd."""
