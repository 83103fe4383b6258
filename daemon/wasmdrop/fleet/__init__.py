"""Run jobs on other machines, by way of NATS JetStream.

The fleet leases and transports jobs, and is never the only place that has one: the daemon's journal
keeps each job until its results are delivered. So the loss of all servers costs time only.
"""
