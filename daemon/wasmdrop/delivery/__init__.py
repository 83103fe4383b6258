"""Delivery: puts the result files and, last, the completion marker into a slot.

The daemon's side is :mod:`.lanes`. What touches the filesystems is a process for each
(:mod:`.process`), so that one that hangs holds up nothing else, and no other work waits for the
interpreter while one of thousands of small files is written. :mod:`.placing` has the steps.
"""
