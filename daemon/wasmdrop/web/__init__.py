"""The HTTP server: bounds what clients can do, and knows nothing of what it serves."""
