"""Real SMAC: oxwhirl's `smac` and Blizzard's StarCraft II in worker processes on the host."""
