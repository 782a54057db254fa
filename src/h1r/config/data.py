"""Where problems come from, and how they become samples and RL prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from h1r.config.base import Fraction, NonNegative, Positive, PositiveFloat, Section


class TokenizerSection(Section):
    """A tokenizer directory or hub id; without one, a byte-level BPE is trained on the curated samples."""

    path: str | None = None
    """Unset: one is trained."""
    vocab_size: Positive = 512
    """Entries of the trained one, special tokens included."""


class ChatSection(Section):
    """How a problem becomes a prompt."""

    system_prompt: str | None = None
    """Unset: the paper's system prompt (sections 3.4, 4.1). Empty string: no system turn."""


class GeneratedSource(Section):
    """A procedural family of `reasoning-gym` with its difficulty knobs."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    """Problems made on the spot."""
    family: str
    """The family's name in reasoning-gym."""
    share: PositiveFloat = 1.0
    """Share of the problems, relative to the other sources."""
    knobs: dict[str, Any] = {}
    """The family's own settings, by their reasoning-gym names. Lists set a range where it takes one."""


class FileSource(Section):
    """A JSONL or Parquet file, or a Hugging Face data set, with a mapping from our field names to its columns."""

    kind: Literal["jsonl", "parquet", "hub"]
    """What is read."""
    path: str
    """File path, or `owner/name` of a data set on the hub."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = {}
    """Our field ("question", "answer", "id", "family", "category", "solution") -> column, dots reach into objects."""
    share: PositiveFloat = 1.0
    """Share of the problems, relative to the other sources."""
    verifier: str = "math"
    """The verifier that can read the reference answers."""
    family: str = "default"
    """Family of every problem, where no column gives it."""
    category: str = "default"
    """Category of every problem, where no column gives it."""


Source = Annotated[GeneratedSource | FileSource, Field(discriminator="kind")]


class ProblemsSection(Section):
    """Where problems come from, and how many of each use. The three sets are disjoint by content."""

    sources: list[Source] = []
    train: Positive = 4000
    """Problems to make worked traces for."""
    rl: Positive = 1000
    """Candidates for RL, before the pass-rate filter."""
    held_out: Positive = 200
    """Problems for evaluation only."""
    seed: int = 0
    """Which held-out problems, and which training ones; apart from `seed`, so that runs compare."""


class CurateSection(Section):
    """Trace making and filtering (section 2)."""

    traces_per_problem: Positive = 2
    """Traces asked for per problem; the paper's best is 12. A family with one solution form gives fewer."""
    max_chars: Positive = 4000
    """Longer traces are dropped. The paper's cap is in tokens (36K); before a tokenizer exists we count characters."""
    near_duplicate_threshold: Fraction = 0.9
    """MinHash Jaccard similarity above which two questions with the same numbers count as one. Our choice."""
    near_duplicate_content: Fraction = 0.9
    """The same for their words without the template of their family, where a few words weigh more. Our choice."""
    ngram: Positive = 13
    """Word n-gram length for decontamination against the held-out problems."""
    boilerplate_share: Fraction = 0.05
    """An n-gram in more than this share of a family's held-out problems is its template, no evidence. Our choice."""
    hard_weight: PositiveFloat = 1.5
    """Paper: 1.25 to 1.75."""
    easy_weight: NonNegative = 0.5
    """Paper: 0.5, or 0 to drop."""
    easy_share: Fraction = 0.25
    """Share of a family (by trace length) that counts as easy; the paper gives no thresholds. Our choice."""
    hard_share: Fraction = 0.25
    """The same for the longest traces, which count as hard. Our choice."""


class RLPoolSection(Section):
    """Pass-rate filter for RL problems (section 3.1)."""

    rollouts: Positive = 8
    """Rollouts of the SFT model per candidate."""
    temperature: PositiveFloat = 0.6
    """Sampling temperature of these rollouts."""
    top_p: Fraction = 0.95
    """Nucleus of these rollouts."""
    max_majority: Positive = 4
    """0 solved and the most frequent wrong answer at least this often: dropped as a likely wrong label."""
    keep_unsolved_share: Fraction = 0.1
    """Share kept of the never-solved with scattered answers; the paper says a small subset. Our choice."""
    keep_overlong_share: Fraction = 0.02
    """Share kept of the never-solved whose rollouts all hit the token limit. Our choice."""
