"""Completion hooks: tell another program about each finished job. Imported only if one is set."""
