"""The sandbox: runs each job, and each compilation, in a confined child process.

:mod:`.host` is the daemon's side and never loads guest code. :mod:`.guest` is the side of the child
processes and runs in no other process. They share :mod:`.wire`, the format of requests and reports.
:mod:`.confinement` takes rights away from a child before it touches guest code.
"""
