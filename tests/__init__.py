"""Tests of wasmdrop."""
