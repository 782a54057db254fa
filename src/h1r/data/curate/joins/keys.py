"""Keys by which records are compared: 64-bit hashes, stable across machines and versions of Python.

    question   the normal form of the question          equal: the same question
    block      numbers of the question, and the answer  different: no near duplicates, whatever the words
    bands      MinHash of the content shingles          one of them equal: worth comparing

The definitions are those of `dedup.py`. Two different texts share a 64-bit key once in about 3,000 corpora of a hundred
million records, and then one record is dropped too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set

import numpy as np

from h1r.data.curate.rules.dedup import MIN_CONTENT, NUM_PERM, bands, number_signature, shingles
from h1r.data.curate.rules.normal_form import normal_form
from h1r.records import Problem
from h1r.verify import is_generated


def hash64(*parts: str) -> int:
    """A signed 64-bit hash of texts."""
    digest = hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def share_of(*parts: str) -> float:
    """A hash of texts as a number in [0, 1), for choices that depend on nothing else."""
    return (hash64(*parts) + 2**63) / 2**64


def question_form(problem: Problem) -> str:
    """What two copies of a question have in common: its normal form, or, since the layout of a generated problem can be
    its content, its text."""
    return " ".join(problem.question.split()) if is_generated(problem) else normal_form(problem.question)


def exact_keys(problem: Problem) -> tuple[int, int]:
    """(question, block)."""
    block = hash64(*number_signature(problem.question), "answer", normal_form(problem.answer))
    return hash64(question_form(problem)), block


def content(question: str, template: Set[str]) -> frozenset[str] | None:
    """The shingles that are no boilerplate; None when they are too few to tell a question by."""
    found = shingles(question)
    rest = found - template
    return rest if len(rest) >= min(MIN_CONTENT, len(found)) else None


def band_keys(contents: Sequence[frozenset[str]], threshold: float) -> Iterator[list[int]]:
    """The keys of the bands of each set of shingles (`dedup.bands`)."""
    from datasketch import MinHash  # two seconds of scipy, which most processes never need

    count, rows = bands(threshold)
    hashes = MinHash.generator(
        (sorted(shingle.encode() for shingle in found) for found in contents), num_perm=NUM_PERM, seed=1
    )
    for hashed in hashes:
        values = np.ascontiguousarray(hashed.hashvalues, dtype=">u8")
        yield [
            int.from_bytes(
                hashlib.blake2b(values[band * rows : (band + 1) * rows].tobytes(), digest_size=8).digest(),
                "big",
                signed=True,
            )
            for band in range(count)
        ]
