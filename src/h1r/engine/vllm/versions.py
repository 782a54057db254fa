"""Which versions of vLLM this package goes with. Imports no vLLM and nothing of the package."""

from __future__ import annotations

import os
import re

VERSIONS = ("0.32",)
"""Series of vLLM that the engine and its workers are made for and tested with, as `pyproject.toml` says, too."""
ANY_VERSION = "H1R_ANY_VLLM"


def untested(version: str) -> str | None:
    """A sentence where this version of vLLM is none of `VERSIONS` and the environment does not allow any; else None.

    Our sampling and weights go through interfaces of its workers that vLLM changes between versions without notice.
    """
    series = re.match(r"\d{1,9}\.\d{1,9}", version)
    if (series is not None and series[0] in VERSIONS) or os.environ.get(ANY_VERSION) == "1":
        return None
    tested = " and ".join(f"{one}.x" for one in VERSIONS)
    return (
        f"vLLM {version} is installed, and h1r's sampling inside its workers is made for {tested}; install one of "
        f"these (`pip install 'open-h1r[vllm]'`), or set {ANY_VERSION}=1 to try this one"
    )
