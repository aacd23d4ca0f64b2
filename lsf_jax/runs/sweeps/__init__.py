"""Runs whose blocks are trained by the workers of a Ray cluster; the driver owns the run folder."""
