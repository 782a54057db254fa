"""Problems made on the spot, by families of `reasoning-gym`.

    for problem in GeneratedProblems(section, seed).problems(): ...

A stream depends on nothing but its section and its seed, and never ends. What a person got wrong raises `UserError`.

A family is offered only if the scorer that grades it (`h1r.verify.reasoning_gym`) gives its own reference answer 1.0,
and nonsense less; the rest are refused with the reason. Items whose reference is known to be wrong as a statement are
left out (`_TRUSTED`).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np

from h1r.common.prose import listing
from h1r.config import GeneratedSource
from h1r.data.curate.io.columns import nearest
from h1r.data.curate.io.everyday_numbers import EVERYDAY_NUMBERS
from h1r.data.wordings import WORDINGS, reworded
from h1r.errors import UserError
from h1r.records import Problem, content_id
from h1r.verify.reasoning_gym.grade import FULL_SCORE, score
from h1r.verify.reasoning_gym.library import families

BLOCK = 200
"""Items per generated data set: some families prepare all their items at construction, so a block must stay small."""
MAX_UNTRUSTED = 2000
"""Items in a row that may be left out before a generated source gives up."""
UNSOUND = {
    "composite": "it only mixes other families; list those as sources of their own, with shares",
    "boxnet": "its scorer does not accept its own reference answer",
    "graph_color": "its scorer does not accept its own reference answer",
    "propositional_logic": "its scorer does not accept its own reference answer",
    "rubiks_cube": "its scorer does not accept its own reference answer",
    "rush_hour": "its scorer does not accept its own reference answer",
}
"""Families that are refused, with the reason (measured on reasoning-gym 0.1.25)."""

HASH_ORDERED = frozenset({"isomorphic_strings", "ransom_note", "polynomial_multiplication", "knight_swap"})
"""Families that draw from sets of strings or symbols, whose order changes with Python's hash seed."""

_TRUSTED: dict[str, Callable[[dict[str, Any]], bool]] = {
    # For these four relations the generator names the sex, or even the direction, of the wrong person.
    "family_relationships": lambda entry: entry["answer"] not in ("mother-in-law", "father-in-law", "niece", "nephew"),
    # Matilda is one of the colleagues already counted, yet the reference adds one to them.
    "aiw": lambda entry: entry["metadata"]["task_type"] != "colleagues",
    # Milliseconds are cut from a float, which now and then takes one off.
    "time_intervals": lambda entry: (
        entry["metadata"]["task_type"] != "time_ms" or int(entry["answer"][-3:]) == _milliseconds(entry["metadata"])
    ),
}

_TODAY = {"time_intervals": ("start_time", "end_time")}
"""Metadata that holds the day of generation when the question has a time without a date; no scorer reads it."""


def _milliseconds(metadata: dict[str, Any]) -> int:
    start, end = (datetime.datetime.fromisoformat(metadata[key]) for key in ("start_time", "end_time"))
    return (end - start).microseconds // 1000


def sound_families() -> tuple[str, ...]:
    """Names of the `reasoning-gym` families that `GeneratedProblems` accepts, sorted."""
    return tuple(sorted(set(_datasets()) - set(UNSOUND)))


@functools.cache
def _datasets() -> dict[str, tuple[type, type]]:
    try:
        return families()
    except ImportError as error:
        raise UserError(str(error)) from None


class GeneratedProblems:
    """The problems of one family. `seed` decides which. `UserError` for an unknown or unsound family, or a bad knob."""

    def __init__(self, section: GeneratedSource, seed: int) -> None:
        self.name, self.family = section.name, section.family
        self._seed = seed
        self._rewords = section.wordings == "everyday"
        self._refuse_unusable(section)
        self._everyday_numbers = EVERYDAY_NUMBERS[section.family] if section.numbers == "everyday" else None
        self._dataset_class, self._config_class = _datasets()[self.family]
        self._category = self._dataset_class.__module__.split(".")[1]
        self._knobs = self._read_knobs(section.knobs)
        self._plain_knobs = plain(section.knobs)
        self._require_scorable()

    def problems(self) -> Iterator[Problem]:
        """The stream, from its beginning at each call."""
        trusted = _TRUSTED.get(self.family, lambda entry: True)
        skipped = 0
        for number in itertools.count():
            dataset, block_seed = self._block(number)
            for index in range(BLOCK):
                entry = self._item(dataset, block_seed, index)
                if trusted(entry):
                    skipped = 0
                    yield self._problem(entry)
                    continue
                skipped += 1
                if skipped == MAX_UNTRUSTED:
                    raise UserError(
                        f"family `{self.family}` with knobs {self._plain_knobs} makes only items whose reference "
                        f"answer is unreliable; change its knobs"
                    )

    def _refuse_unusable(self, section: GeneratedSource) -> None:
        if self.family in UNSOUND:
            raise UserError(f"corpus.sources: family `{self.family}` is refused: {UNSOUND[self.family]}")
        if self.family not in _datasets():
            raise UserError(f"corpus.sources: unknown family `{self.family}`; {nearest(self.family, sound_families())}")
        if self._rewords and self.family not in WORDINGS:
            raise UserError(
                f"corpus.sources: family `{self.family}` has no everyday wordings, only {listing(sorted(WORDINGS))}; "
                f'set wordings = "library"'
            )
        if section.numbers == "everyday" and (
            self.family not in EVERYDAY_NUMBERS or section.knobs.get("allow_negation")
        ):
            raise UserError(
                f"corpus.sources: family `{self.family}` has no everyday numbers, only "
                f"{listing(sorted(EVERYDAY_NUMBERS))} without allow_negation have them; "
                f'set numbers = "library"'
            )
        if self.family in HASH_ORDERED and os.environ.get("PYTHONHASHSEED", "random") == "random":
            raise UserError(
                f"corpus.sources: items of family `{self.family}` change with Python's hash seed; set the "
                f"environment variable PYTHONHASHSEED=0 so that a run can be repeated"
            )

    def _read_knobs(self, knobs: dict[str, Any]) -> dict[str, Any]:
        defaults = self._config_class()
        known = [field.name for field in dataclasses.fields(defaults) if field.name not in ("seed", "size")]
        for name in knobs:
            if name in ("seed", "size"):
                raise UserError(
                    f"corpus.sources: `{name}` is no knob of family `{self.family}` here; "
                    f"set problems.seed and problems.train, rl, held_out instead"
                )
            if name not in known:
                raise UserError(f"corpus.sources: family `{self.family}` has no knob `{name}`; {nearest(name, known)}")
        try:
            return {name: _like(getattr(defaults, name), value) for name, value in knobs.items()}
        except (ValueError, TypeError) as error:
            raise UserError(f"corpus.sources: knobs {knobs} of family `{self.family}`: {error}") from None

    def _require_scorable(self) -> None:
        """The first problem's own reference, after a round trip through JSON, by the scorer the verifier uses."""
        first = next(self.problems())
        entry = json.loads(json.dumps(first.metadata["entry"]))
        try:
            found = score(self.family, first.answer, entry)
        except Exception as error:
            raise self._refused(error) from error
        if found is None or found < FULL_SCORE:
            raise UserError(
                f"corpus.sources: the scorer of family `{self.family}` gives its own reference answer "
                f"{found or 0:g}, not 1, with knobs {self._plain_knobs}; change them"
            )

    def _block(self, number: int) -> tuple[Any, int]:
        seed = derive_seed(self._seed, self.family, number)
        try:
            config = self._config_class(**self._knobs, seed=seed, size=BLOCK)
            if hasattr(config, "validate"):
                config.validate()
            with _global_rngs(seed):
                return self._dataset_class(config), seed
        except Exception as error:
            raise self._refused(error) from error

    def _item(self, dataset: Any, block_seed: int, index: int) -> dict[str, Any]:
        try:
            with _global_rngs((block_seed + index) % 2**32):
                entry = dataset[index]
            if self._everyday_numbers:
                return self._everyday_numbers(entry, dataset.config, derive_seed(block_seed, "digits", index))
            return entry
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> UserError:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return UserError(
            f"corpus.sources: family `{self.family}` refuses its knobs {self._plain_knobs} ({why}); change them"
        )

    def _problem(self, entry: dict[str, Any]) -> Problem:
        metadata = {key: value for key, value in entry["metadata"].items() if key != "difficulty"}
        if metadata.get("task_type", "").startswith("time"):
            for key in _TODAY.get(self.family, ()):
                metadata.pop(key, None)
        answer = str(entry["answer"])
        stated = plain(entry["metadata"].get("difficulty", {}))
        made_with = stated if isinstance(stated, dict) else {"difficulty": stated}
        kept = {"question": entry["question"], "answer": answer, "metadata": plain(metadata)}
        question = reworded(self.family, kept) if self._rewords else entry["question"]
        return Problem(
            id=content_id(question),
            question=question,
            answer=answer,
            verifier="reasoning_gym",
            family=self.family,
            category=self._category,
            source=self.name,
            difficulty={**made_with, **self._plain_knobs},
            metadata={"dataset": self.family, "entry": kept},
        )


def derive_seed(*parts: Any) -> int:
    """A 32-bit seed that depends on every part, stable across processes and versions of Python."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4], "big")


@contextmanager
def _global_rngs(seed: int) -> Iterator[None]:
    """Seeds the global generators for the block and puts their state back: a few families draw from them."""
    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def _like(default: Any, value: Any) -> Any:
    """A TOML value in the type the family's config has for it: enumerations by value, tuples for arrays."""
    if isinstance(default, Enum):
        return type(default)(value)
    if isinstance(default, (list, tuple)) and isinstance(value, list):
        items = [_like(default[0], item) if default and isinstance(default[0], Enum) else item for item in value]
        return tuple(items) if isinstance(default, tuple) else items
    return value


def plain(value: Any) -> Any:
    """`value` in types that JSON has: arrays for tuples, sets (sorted) and numpy arrays, ISO text for dates."""
    if value is None or (isinstance(value, (bool, int, float)) and not isinstance(value, (Enum, np.generic))):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
