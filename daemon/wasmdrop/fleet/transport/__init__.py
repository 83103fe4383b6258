"""The connection to the servers of a fleet; the only package that uses nats-py."""
