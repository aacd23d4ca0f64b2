"""Helpers of the tests: cases, oracles, stand-in games."""
