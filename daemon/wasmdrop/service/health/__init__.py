"""Health: liveness, readiness and metrics, over HTTP and for systemd."""
