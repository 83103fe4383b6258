"""The doctor: whether this host and these mounts can do what the daemon promises on them.

Each check really does what the daemon will do, as the user that runs it, and leaves nothing behind.
:func:`wasmdrop.service.doctor.examination.examine` runs them all.
"""
