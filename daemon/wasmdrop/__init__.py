"""wasmdrop runs WebAssembly modules that are dropped into a directory.

The watcher notices paths. Intake reads a drop safely and makes a job of it. The journal records the
job. The dispatcher gives it to a sandbox, a fresh confined process that runs it. Delivery writes
the result files and, last, the completion marker. The journal closes the job.
"""
