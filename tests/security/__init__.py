"""What strangers may try: ways out of the sandbox, lies to the daemon, hostile modules."""
