"""RL on a Ray cluster: trainers and engines in actors, driven by the loop of `rl.py` (docs/guide/parallel.md)."""
