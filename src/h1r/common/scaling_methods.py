"""Methods of test-time scaling by the name that `scaling.method` gives them.

What one is: `h1r.scaling.ballot.Method`."""

from __future__ import annotations

from typing import Any

from h1r.common.registry import Registry

METHODS: Registry[Any] = Registry(
    "scaling method",
    {
        "adaptive_consistency": "h1r.scaling.methods:AdaptiveConsistency",
        "bayesian_stopping": "h1r.scaling.bayesian_stopping:BayesianStopping",
        "best_of_n": "h1r.scaling.methods:BestOfN",
        "borda": "h1r.scaling.methods:Borda",
        "cges": "h1r.scaling.methods:ConfidenceGuided",
        "deepconf": "h1r.scaling.parameters:DeepConf",
        "esc": "h1r.scaling.methods:EarlyStopping",
        "majority": "h1r.scaling.methods:Majority",
        "no_loops": "h1r.scaling.methods:NoLoops",
        "short_1": "h1r.scaling.methods:Short1",
        "short_3": "h1r.scaling.methods:Short3",
    },
)
"""Classes of methods: subclasses of `h1r.scaling.ballot.Method`."""
scaling_method = METHODS.register
"""Decorator of such a class: `@h1r.scaling_method("mine")`, then `scaling.method = "mine"`."""
