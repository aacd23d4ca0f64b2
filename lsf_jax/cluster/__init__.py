"""What everything that runs on a Ray cluster shares; nothing here is imported before a cluster is asked for."""
