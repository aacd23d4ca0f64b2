"""A run's parts bound together once, the compiled programs made of them, and how they are laid out in memory."""
