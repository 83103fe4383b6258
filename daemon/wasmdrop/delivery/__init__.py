"""Delivery: publishes the result files of a job and, last, the completion marker.

:mod:`.delivery` is the daemon's side. A worker process per filesystem does the work
(:mod:`.worker`), so that one that hangs delays no other filesystem, and the daemon's interpreter
does not spend its time on thousands of small files. :mod:`.placement` has the steps.
"""
