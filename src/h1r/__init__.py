"""Open-H1R: train, study and serve small hybrid reasoning models.

The public API. Each name is imported from its module when it is first used, so that `import h1r` is quick and loads no
torch. docs/reference/api.md describes them.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h1r.api import curate as curate
    from h1r.api import evaluate as evaluate
    from h1r.api import rl as rl
    from h1r.api import sft as sft
    from h1r.common.engines import engine as engine
    from h1r.common.scaling_methods import scaling_method as scaling_method
    from h1r.config import Recipe as Recipe
    from h1r.config import load_recipe as load_recipe
    from h1r.engine.choose import open_engine as open_engine
    from h1r.engine.protocol import SamplingParams as SamplingParams
    from h1r.errors import UserError as UserError
    from h1r.evals.solving import solve as solve
    from h1r.models import load as load
    from h1r.models import save as save
    from h1r.models.registry import register as model  # noqa: F401 - a public name
    from h1r.parity import run as parity  # noqa: F401 - a public name
    from h1r.records import Message as Message
    from h1r.records import Problem as Problem
    from h1r.records import Sample as Sample
    from h1r.records import Trace as Trace
    from h1r.records import Verdict as Verdict
    from h1r.records import read_jsonl as read_jsonl
    from h1r.records import write_jsonl as write_jsonl
    from h1r.report import write_report as report  # noqa: F401 - a public name
    from h1r.rollout.environment import Environment as Environment
    from h1r.rollout.environment import environment as environment
    from h1r.rollout.pipeline import RolloutPipeline as RolloutPipeline
    from h1r.rollout.pipeline import rollout as rollout
    from h1r.rollout.rewards import reward as reward
    from h1r.run.trackers.registry import tracker as tracker
    from h1r.train.registry import loss as loss
    from h1r.verify import VerifierPool as VerifierPool
    from h1r.verify import verifier as verifier
    from h1r.verify import verify as verify

    __version__: str

# Threads that wait for each other spin by default. On a busy machine a neighbour on one's core then holds all of them
# up (two threads made a tenth of one's steps); on an idle one sleeping costs up to a third. `common.thread_waits`
# decides as a process runs. Where the system does not tell it enough, this does, once, for torch's libgomp to read as
# it is loaded. The results are the same bits.
WAITS_SET = "H1R_WAITS_SET"
"""In the environment of processes that this one starts: this package set their OMP_WAIT_POLICY, and nobody chose it."""
if os.environ.pop(WAITS_SET, None) and "torch" not in sys.modules:
    os.environ.pop("OMP_WAIT_POLICY", None)
WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WAITS_GIVEN = any(name in os.environ for name in WAITS)
"""Whether the user has chosen how threads wait, by setting one of these."""
BUSY_AT_START = hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 2
if BUSY_AT_START and not WAITS_GIVEN and not os.path.exists("/proc/self/schedstat"):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

_MODULES = {
    "Environment": "h1r.rollout.environment",
    "Message": "h1r.records",
    "Problem": "h1r.records",
    "Recipe": "h1r.config",
    "RolloutPipeline": "h1r.rollout.pipeline",
    "Sample": "h1r.records",
    "SamplingParams": "h1r.engine.protocol",
    "Trace": "h1r.records",
    "UserError": "h1r.errors",
    "Verdict": "h1r.records",
    "VerifierPool": "h1r.verify",
    "curate": "h1r.api",
    "environment": "h1r.rollout.environment",
    "evaluate": "h1r.api",
    "load": "h1r.models",
    "load_recipe": "h1r.config",
    "loss": "h1r.train.registry",
    "model": "h1r.models.registry",
    "open_engine": "h1r.engine.choose",
    "read_jsonl": "h1r.records",
    "reward": "h1r.rollout.rewards",
    "rl": "h1r.api",
    "save": "h1r.models",
    "scaling_method": "h1r.common.scaling_methods",
    "sft": "h1r.api",
    "solve": "h1r.evals.solving",
    "tracker": "h1r.run.trackers.registry",
    "verifier": "h1r.verify",
    "write_jsonl": "h1r.records",
}
"""Name -> the module that has it under this name, or the one of `_RENAMED`."""
_RENAMED = {"model": "register"}
_PACKAGES = ("engine", "parity", "report", "rollout", "verify")
"""Packages that can be called (`common.callable_package`)."""

__all__ = ["__version__", *_MODULES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("open-h1r")
        except PackageNotFoundError:
            return "unknown"
    if name in _PACKAGES:
        return importlib.import_module(f"h1r.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'h1r' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), _RENAMED.get(name, name))
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
