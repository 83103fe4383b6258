"""Retention: removes what is done from the journal, from slots, and from the inbox of producers."""
