"""The journal: the record of every job, durable before the job has any visible effect."""
