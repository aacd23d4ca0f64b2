"""Runs on disk and in progress: folders, checkpoints, tables, sessions, suites."""
