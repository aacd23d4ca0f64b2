"""Configurations: YAML layers and command-line words in, one checked and frozen `Config` out."""
