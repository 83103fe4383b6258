"""The doctor: check whether the daemon can keep its promises on this host and these mounts.

Each check does what the daemon does, as the user that runs it, and leaves nothing behind.
:func:`wasmdrop.service.doctor.examination.examine` runs them all.
"""
