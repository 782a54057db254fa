"""Runs the checks and says what they came to: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from h1r.common.progress import progress
from h1r.common.prose import counted
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.models.device import chosen_device
from h1r.parity.checks import choose
from h1r.parity.measure import Check, Outcome
from h1r.parity.subject import DTYPES, Subject, open_subject

_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class Report:
    """What was checked (`header`) and what each check came to."""

    header: dict[str, Any]
    outcomes: list[Outcome]

    def count(self, verdict: str) -> int:
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def passed(self) -> bool:
        """No check failed, and at least one ran."""
        return self.count("failed") == 0 and self.count("passed") > 0

    def to_json(self) -> dict[str, Any]:
        """`figures` are of the checks that have some."""
        found = [dataclasses.asdict(outcome) for outcome in self.outcomes]
        checks = [{key: value for key, value in one.items() if key != "figures" or value} for one in found]
        return {"header": self.header, "checks": checks}

    def table(self) -> Table:
        table = Table("check", "worst error", "tolerance", "verdict", "why")
        for o in self.outcomes:
            error = "-" if o.error is None else f"{o.error:.1e}"
            tolerance = "exact" if o.tolerance == 0 else f"{o.tolerance:.0e}"
            table.add_row(o.name, error, tolerance, f"[{_COLOURS[o.verdict]}]{o.verdict}[/]", _plain(o.why))
        return table

    def summary(self) -> str:
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in _COLOURS)
        return f"{counts}" if self.passed or self.count("failed") else f"{counts}: nothing was shown"


def run(
    name: str,
    *,
    only: Sequence[str] = (),
    dtype: str = "float32",
    device: str | None = None,
    kernels: str = "auto",
    layers: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
    text: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Checks a preset (random weights), checkpoint directory or hub id.

    only: names of checks, or their first words. dtype: float32, bfloat16 or float64. device: None takes CUDA where
    there is any. layers, tokens: see `open_subject`. text: a file on whose beginning narrow weights are compared, with
    the checkpoint's tokenizer; None takes what the model writes. announce: is called once, before the first check, with
    a sentence that says what is checked. Raises `UserError` for what cannot be checked at all.
    """
    checks = choose(only)
    place = chosen_device(device)
    with tempfile.TemporaryDirectory(prefix="h1r-parity-") as workspace:
        subject = open_subject(
            name, Path(workspace), dtype=DTYPES[dtype], device=place, kernels=kernels, layers=layers, tokens=tokens,
            seed=seed,
        )  # fmt: skip
        if text is not None:
            subject.text_ids = read_text(subject, Path(text))
        header = describe(subject)
        if announce is not None:
            announce(sentence(header))
        return Report(header, outcomes(subject, checks))


def outcomes(subject: Subject, checks: Iterable[Check]) -> list[Outcome]:
    """Each check in turn, with a progress display."""
    found = []
    checks = list(checks)
    with progress("parity", total=len(checks), unit="check") as bar:
        for check in checks:
            found.append(check.run(subject))
            bar.advance(last=check.name)
    return found


def describe(subject: Subject) -> dict[str, Any]:
    """What the outcomes depend on."""
    model = subject.model
    return {
        "model": subject.name,
        "layers": subject.config.num_hidden_layers,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "kernels": {"name": model.kernels.name, "reason": model.kernels.reason},
        "tokens": subject.tokens,
        "seed": subject.seed,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **_versions("open-h1r", "torch", "transformers", "vllm")},
    }


def sentence(header: dict[str, Any]) -> str:
    """The header in two lines."""
    kernels = header["kernels"]
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items() if version)
    return (
        f"{header['model']}: {counted(header['layers'], 'layer')}, {header['parameters']:,} parameters, "
        f"{header['dtype']} on "
        f"{header['device']}, {counted(header['tokens'], 'token')}, seed {header['seed']}\n"
        f"kernels {kernels['name']} ({kernels['reason']}); {versions}"
    )


def read_text(subject: Subject, file: Path) -> list[int]:
    """The file's tokens. Raises `UserError` where there is no tokenizer, no file, or no text."""
    if subject.origin is None:
        raise UserError(f"--text needs a tokenizer, and {subject.name} has none; name a checkpoint")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text ({error}); name another file with --text") from error
    ids: list[int] = load_tokenizer(subject.origin)(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"{file} holds no text; name another file with --text")
    return ids


def _versions(*names: str) -> dict[str, str | None]:
    """Installed versions; None for what is not installed. A name's build for CPUs stands for it."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        for build in (name, f"{name}-cpu"):
            with suppress(importlib.metadata.PackageNotFoundError):
                found[name] = found[name] or importlib.metadata.version(build)
    return found


def _plain(text: str) -> str:
    """Text as it is: rich would read brackets as markup."""
    return text.replace("[", r"\[")
