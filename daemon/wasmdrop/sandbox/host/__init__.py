"""The daemon's side of the sandbox."""
