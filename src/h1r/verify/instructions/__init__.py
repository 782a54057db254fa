"""Checks of stated instructions (IFEval, IFBench)."""
