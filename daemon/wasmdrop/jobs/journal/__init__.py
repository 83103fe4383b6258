"""The journal: the record of every job, durable before anything is seen of it."""
