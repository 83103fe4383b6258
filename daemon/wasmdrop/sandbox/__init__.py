"""The sandbox: a fresh process for every job, and for every compilation.

The daemon's side is :mod:`.pool` (children), :mod:`.executor` (one job) and :mod:`.store` (modules
and their compiled form). The child's side is :mod:`.server`, :mod:`.confine`, :mod:`.runtime`,
:mod:`.compiler`, :mod:`.binary` and :mod:`.guest`; nothing of it runs in the daemon's own process.
"""
