"""HTTP: a server and a client that bound the time and the bytes of the other side."""
