"""Builds of the native program for tests, and a process that drives one."""
