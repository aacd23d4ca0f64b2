"""Reading a run folder back: its tables, statistics over seeds, plots, tables for people and pictures of episodes."""
