"""Downloads modules from untrusted servers. Only the command ``fetch`` imports it.

This is the only package that connects to a network, and the daemon can't reach it. The caller names
what it wants by a SHA-256, and nothing that the server says counts until it was compared with that.
"""
