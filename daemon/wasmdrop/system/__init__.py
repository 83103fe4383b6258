"""Linux: files, mounts, processes and system calls, as the daemon uses them."""
