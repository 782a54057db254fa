"""Packages that come with this one, for machines where the original cannot be installed.

    python -m h1r.stand_ins pycosat     installs it into this environment

pycosat: reasoning-gym imports it always, though its zebra puzzles alone use it, and it has no wheels.
"""
