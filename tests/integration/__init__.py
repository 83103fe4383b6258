"""Tests that drive the real daemon from outside, as its users do."""
