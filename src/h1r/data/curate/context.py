"""What the tasks of one run share in a process: made once, when a task asks for it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h1r.common.files import read_json
from h1r.config import Recipe, load_recipe
from h1r.config.verify import VerifySection
from h1r.data.curate.rules.decontaminate import HeldOutIndex
from h1r.records import Problem, Verdict, read_jsonl
from h1r.verify import Backend, default_workers, open_backend, use_judge
from h1r.verify.controls import Refusal
from h1r.verify.workers.ray_cluster import ADDRESS_VARIABLE, RayCluster


class Context:
    """Recipe, benchmarks, boilerplate, tokenizer and verifiers of the run in `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.recipe: Recipe = load_recipe(work / "recipe.json")
        self._backend: Backend | None = None

    def close(self) -> None:
        """Ends the verifier's workers; they start again when asked for."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    @functools.cached_property
    def held_out(self) -> HeldOutIndex:
        problems = list(read_jsonl(self.work / "held_out.jsonl", Problem))
        section = self.recipe.curate
        return HeldOutIndex(problems, section.ngram, section.boilerplate_share, section.coverage)

    @functools.cached_property
    def templates(self) -> dict[str, frozenset[str]]:
        return {family: frozenset(grams) for family, grams in read_json(self.work / "templates.json").items()}

    @functools.cached_property
    def refused_families(self) -> dict[str, Refusal]:
        """Family key -> why its controls refuse it, from the counts of all shards."""
        return {key: Refusal(**why) for key, why in read_json(self.work / "refused_families.json").items()}

    @functools.cached_property
    def sampled_families(self) -> frozenset[str]:
        """Keys of generated families of which a sample was examined and nothing refused."""
        return frozenset(read_json(self.work / "sampled.json")["families"])

    @functools.cached_property
    def tokenizer(self) -> Any:
        from h1r.data.tokenizer import load_tokenizer  # seconds of imports, which one pass of six needs

        return load_tokenizer(self.work / "tokenizer")

    def verify(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """Verdicts by the backend that the recipe asks for, which ends with this process; no step asks for parts of the
        format."""
        if self._backend is None:
            use_judge(self.recipe.judge)  # a process on another machine lacks the environment of the first one
            self._backend = open_backend(part_of_verifiers(self.recipe), format_checks=False)
        return self._backend.verify_many(problems, texts)


_contexts: dict[Path, Context] = {}


def context(work: Path) -> Context:
    """The context of a run in this process."""
    if work not in _contexts:
        _contexts[work] = Context(work)
    return _contexts[work]


def close(work: Path) -> None:
    """Forgets the context of a run and ends its verifiers."""
    if found := _contexts.pop(work, None):
        found.close()


def part_of_verifiers(recipe: Recipe) -> VerifySection:
    """`[verify]` for one of the processes that curate at once: they divide its workers, at least one for each.

    Tasks that Ray has spread over its machines verify in processes beside them, whatever `verify.backend` says: an
    actor would wait for the processors that the tasks hold.
    """
    corpus, section = recipe.corpus, recipe.verify
    workers = section.workers or default_workers()
    if corpus.executor == "ray":
        part = max(1, workers // corpus.workers) if corpus.workers else 1
        return section.model_copy(update={"workers": part, "backend": "processes"})
    return section.model_copy(update={"workers": max(1, workers // (corpus.workers or os.cpu_count() or 1))})


@contextmanager
def one_ray(recipe: Recipe) -> Iterator[None]:
    """For local processes that verify on Ray: one cluster for all of them, where none is named. Each would start its
    own. What is started here ends with the block."""
    section = recipe.verify
    named = section.ray_address or ADDRESS_VARIABLE in os.environ
    if section.backend != "ray" or recipe.corpus.executor == "ray" or named:
        yield
        return
    try:
        cluster = RayCluster()
    except ImportError:  # the backend says what to install
        yield
        return
    os.environ[ADDRESS_VARIABLE] = cluster.address
    try:
        yield
    finally:
        del os.environ[ADDRESS_VARIABLE]
        cluster.leave()
