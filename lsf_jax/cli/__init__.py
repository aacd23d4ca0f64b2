"""The command line, a thin layer over `runs` and `analysis`; one file for each group of commands."""
