"""Tests of content ids."""
