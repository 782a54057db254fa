"""Where problems come from, and how they become samples and RL prompts."""

from __future__ import annotations

from typing import Literal

from h1r.config.base import Count, Fraction, NonNegative, Positive, PositiveFloat, Section


class TokenizerSection(Section):
    """A tokenizer directory or hub id; without one, a byte-level BPE is trained on the curated samples."""

    path: str | None = None
    """Unset: one is trained."""
    vocab_size: Positive = 512
    """Entries of the trained one, special tokens included."""


class ChatSection(Section):
    """How a problem becomes a prompt."""

    template: Literal["checkpoint", "h1r"] = "checkpoint"
    """Who writes conversations: the chat template of the tokenizer that the run starts from, or ours (Falcon-H1R's),
    which also stands where that tokenizer has none."""
    system_prompt: str | None = None
    """What the template is trained and asked with, and stored with. Unset: the tokenizer's own; the paper's (sections
    3.4, 4.1) with our template where there is none. Empty string: no system turn, or, with another's template, what
    that writes."""


class ProblemsSection(Section):
    """How many problems are drawn from the sources of `[corpus]` that have a share. The three sets are disjoint by
    content."""

    train: Positive = 4000
    """Problems to make worked traces for."""
    rl: Positive = 1000
    """Candidates for RL, before the pass-rate filter."""
    held_out: Positive = 200
    """Problems for evaluation only."""
    seed: int = 0
    """Which held-out problems, and which training ones; apart from `seed`, so that runs compare."""


class ClassifierSection(Section):
    """A classifier of texts that keeps problems, drops them, or names their domain; needs the extra `curate`."""

    name: str
    """What the drop log calls it."""
    path: str
    """A scikit-learn pipeline that takes texts (`.joblib`, `.pkl`: loading it runs what is in it), or a transformers
    model for text classification, a directory or hub id. Relative to `corpus.root`."""
    on: Literal["question", "trace"] = "question"
    """What it reads: the question, or the question with its first trace."""
    keep: list[str] = []
    """Labels that stay; a problem whose likeliest label is another one goes. Empty: all."""
    label: str | None = None
    """The label that must be likely enough, such as that of good quality."""
    least: Fraction = 0.5
    """Its least probability. Our choice."""
    sets_domain: bool = False
    """The likeliest label becomes the problem's domain, for mixture and limits (`corpus.domains` names them)."""


class CurateSection(Section):
    """Trace making and filtering (section 2)."""

    traces_per_problem: Positive = 2
    """Worked traces of a problem that we have a solver for; one with a single form of solution gives fewer."""
    max_chars: Count = 0
    """Traces of more characters are dropped; 0: none for its characters. `corpus.max_tokens` caps tokens."""
    thinking: Literal["required", "optional"] = "required"
    """Whether a trace without thinking is dropped, as in the paper; `optional` keeps it."""
    loss: Literal["last", "all", "weights"] = "last"
    """Assistant turns that carry loss: `last`, or all where tools are called (paper); `all`; or `weights`, those to
    which the data give weight 1 (`last` where they give none)."""
    near_duplicate_threshold: Fraction = 0.9
    """MinHash Jaccard similarity above which two questions with the same numbers count as one. Our choice."""
    near_duplicate_content: Fraction = 0.9
    """The same for their words without the template of their family, where a few words weigh more. Our choice."""
    languages: list[str] = []
    """ISO 639-1 codes (`en`, `zh`) of the languages that questions may be in; needs the extra `curate`. Empty: any."""
    classifiers: list[ClassifierSection] = []
    """In order; generated problems pass them by."""
    embedder: str | None = None
    """The directory of a model2vec or sentence-transformers model. With it questions that mean the same are near
    duplicates, where their numbers and answers are the same too."""
    near_meaning: Fraction = 0.9
    """Cosine of two embeddings above which questions mean the same; it depends on the model. Our choice."""
    difficulty: Literal["length", "judge"] = "length"
    """What gives samples their class where there is no pass rate: the length of the traces within the family, or the
    model of `[judge]`, which is asked for one word. Our choice."""
    conflicts: Literal["none", "first"] = "none"
    """Of one question with answers that differ by its verifier: none is used, or the first. Our choice."""
    ngram: Positive = 10
    """Tokens in a row that a problem must share with a held-out one to overlap it, beside `coverage`. Our choice."""
    coverage: Fraction = 0.5
    """Share of a held-out question that a problem must have, in runs of five tokens, to overlap it. Our choice."""
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

    rollouts: Count = 8
    """Rollouts per candidate of the model that RL starts from. 0: none is measured, and all enter the pool."""
    temperature: PositiveFloat = 0.6
    """Sampling temperature of these rollouts."""
    top_p: Fraction = 0.95
    """Nucleus of these rollouts."""
    max_tokens: Positive | None = None
    """Longest of these rollouts; the paper's 32,768 are fewer than its RL has. Unset: `rl.max_tokens`."""
    only_gradable: bool = False
    """Leave out what no rule can grade: several questions with one reference, a figure that is not there, a reference
    that is prose. How many there are is said in any case. Our choice of rules."""
    max_majority: Positive = 4
    """0 solved and the most frequent wrong answer at least this often: dropped as a likely wrong label."""
    keep_unsolved_share: Fraction = 0.1
    """Share kept of the never-solved with scattered answers; the paper says a small subset. Our choice."""
    keep_overlong_share: Fraction = 0.02
    """Share kept of the never-solved whose rollouts all hit the token limit. Our choice."""
