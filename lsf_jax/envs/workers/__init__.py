"""Games on the host in processes of their own: the pool, its processes, and the script that they run."""
