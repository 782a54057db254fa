"""Is a model exact here? Each guarantee of the hybrid model, measured on one checkpoint or preset on this machine.

    report = run("runs/demo/rl/model")
    report.passed, report.outcomes

A check compares two ways to compute one thing and reports the worst error against a stated tolerance. One that cannot
run says why and never counts as passed. docs/internals/parity.md lists the checks and where the tolerances come from.

Some checks start processes that import the calling script, so a script calls `run` under
`if __name__ == "__main__":`.
"""

from __future__ import annotations

from h1r.common.callable_package import make_callable
from h1r.parity.report import Report, run

__all__ = ["Report", "run"]

make_callable(__name__, run)
