"""Tests of single modules, without a daemon."""
