"""Where answers are graded: the pool of worker processes, what confines them, and the same on a Ray cluster."""
