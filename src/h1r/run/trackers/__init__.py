"""Where the numbers of a run go besides its own files: one file for each service, `open.py` for those of a recipe."""
