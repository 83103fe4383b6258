"""The daemon's side of a fleet: jobs are published, and answers accepted, once each."""
