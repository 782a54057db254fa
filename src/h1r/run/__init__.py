"""A run on disk: its directory, its metrics and its checkpoints."""
