"""What the stages of a run store, as the report reads it. Keys that a version does not know are ignored."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from h1r.report.paired import ProblemOutcome
from h1r.report.shapes import Interval, Shape


class StageCost(Shape):
    """What one stage took. `peak_rss_bytes` is the process's high-water mark when the stage ended."""

    wall_seconds: float
    peak_rss_bytes: int


class Machine(Shape):
    """See `common/machine.py`."""

    system: str = ""
    processor: str = ""
    cores: int | None = None
    memory_bytes: int | None = None
    accelerators: list[str] = []
    threads: int | None = None
    versions: dict[str, str] = {}


class Attempt(Shape):
    """One start of a stage: when, where, with which code and command line; or settings that have changed, before and
    after."""

    stage: str
    time: float = 0.0
    argv: list[str] = []
    h1r: str = ""
    commit: str = ""
    changed: dict[str, list[Any]] = {}
    machine: Machine | None = None


class FilterStep(Shape):
    """One curation step: how many records of a `unit` went in and out, and how many were dropped for which reason."""

    step: str
    unit: str = "record"
    entered: int = Field(alias="in")
    left: int = Field(alias="out")
    reasons: dict[str, int] = {}


class FamilyCount(Shape):
    samples: int = 0
    mean_chars: float | None = None


class Overlap(Shape):
    """Training problems that overlapped one held-out benchmark, and were dropped, by their strongest evidence."""

    held_out: int = 0
    exact: int = 0
    contained: int = 0
    ngram: int = 0
    total: int = 0
    percent: float = 0.0


class CurateSummary(Shape):
    """`contamination`: {training set: {benchmark: overlap}}. `problems`: problems left of each set."""

    table: list[FilterStep] = []
    classes: dict[str, int] = {}
    families: dict[str, FamilyCount] = {}
    contamination: dict[str, dict[str, Overlap]] = {}
    problems: dict[str, int] = {}
    rejected_lines: int = 0


class Dropped(Shape):
    id: str = ""
    step: str
    reason: str
    excerpt: str = ""


class Ungradable(Shape):
    """Candidate RL problems that no rule can grade, of how many, and why."""

    count: int = 0
    of: int = 0
    reasons: dict[str, int] = {}


class PoolSummary(Shape):
    """`pass_rate_histogram[k]`: candidate RL problems that k of the rollouts solved."""

    ungradable: Ungradable = Ungradable()

    table: list[FilterStep] = []
    pass_rate_histogram: list[int] = []


class FamilyScore(Shape):
    pass_at_1: float
    interval: Interval | None = None
    n: int | None = None


class Example(Shape):
    """One recorded answer with the text of each token and its DeepConf confidence (nats).

    `state` and `threshold` (nats) stand on the scaling study's examples: what became of the trace in the vote.
    """

    family: str = ""
    question: str
    reference: str = ""
    correct: bool
    text: str = ""
    tokens: list[str] = []
    confidences: list[float] = []
    finish_reason: str = ""
    state: str = ""
    threshold: float | None = None


class EvalResult(Shape):
    """Held-out accuracy of one checkpoint: pass@1 averaged over `samples_per_problem` answers to each problem."""

    pass_at_1: float
    interval: Interval | None = None
    per_family: dict[str, FamilyScore] = {}
    mean_tokens: float | None = None
    truncated: float | None = None
    no_answer: float | None = None
    unscored: float | None = None
    samples_per_problem: int | None = None
    problems: int | None = None
    confidence_level: float | None = None
    examples: list[Example] = []
    outcomes: list[ProblemOutcome] = []
    samples: str | None = None


class Score(Shape):
    """Accuracy and the tokens it cost. `simulated`: replayed on recorded traces, none generated anew.

    `tokens_by_state`: tokens by what became of their trace ("voted", "stopped", ...).
    """

    accuracy: float
    interval: Interval | None = None
    tokens: float
    simulated: bool = False
    tokens_by_state: dict[str, float] = {}


class Saving(Shape):
    """The share of majority's tokens that DeepConf saves by ending votes that are decided, and by ending traces."""

    consensus: float
    confidence: float


class BudgetScore(Shape):
    """`saving` is that of the replayed run."""

    budget: int
    majority: Score | None = None
    deepconf: Score | None = None
    saving: Saving | None = None


class Paired(Shape):
    """DeepConf minus majority on the same problems; `token_saving` is the share of majority's tokens not spent."""

    accuracy_difference: float | None = None
    accuracy_interval: Interval | None = None
    token_saving: float | None = None
    token_saving_interval: Interval | None = None


class MethodScore(Score):
    """Another way to spend the largest budget, replayed on majority's traces."""

    paired: Paired = Paired()


class Separation(Shape):
    """`auroc`: the chance that a correct trace is more confident than a wrong one of the same problem."""

    auroc: float | None = None
    auroc_interval: Interval | None = None

    @property
    def tells(self) -> bool:
        """Whether confidence is above chance: the whole interval, or the value where an older run has none."""
        return self.auroc is not None and (self.auroc_interval or (self.auroc,))[0] > 0.5


class VoteScore(Shape):
    """Accuracy of votes over a benchmark's answers, and the tokens of all problems, None where nobody stated them."""

    accuracy: float
    interval: Interval | None = None
    tokens: float | None = None


class VotesAt(Shape):
    """`budget`: answers to a problem. `deepconf` is the score of the method, whichever it is."""

    budget: int
    majority: VoteScore
    deepconf: VoteScore | None = None


class Votes(Shape):
    """See `h1r.evals.budgets.at_budgets`."""

    method: str = "deepconf"
    lacks: list[str] = []
    rows: list[VotesAt] = []


def method_label(method: str) -> str:
    """What a method is called in a text: letters, digits and spaces alone."""
    return "DeepConf" if method == "deepconf" else re.sub(r"[^A-Za-z0-9]+", " ", method)[:40].strip()


class ScalingResult(Shape):
    """The study at its largest `budget` (traces per problem) and below; tokens are summed over `problems`."""

    budget: int
    method: str = "deepconf"
    """The one whose scores are called deepconf here."""
    problems: int | None = None
    majority: Score
    deepconf: Score
    budgets: list[BudgetScore] = []
    voters: dict[str, float] = {}
    methods: dict[str, MethodScore] = {}
    paired: Paired = Paired()
    confidence: Separation = Separation()
    examples: list[Example] = []

    @property
    def label(self) -> str:
        """What the method is called in a text."""
        return method_label(self.method)

    @property
    def token_saving(self) -> float | None:
        """The share of majority's tokens that DeepConf did not spend."""
        if self.paired.token_saving is not None:
            return self.paired.token_saving
        return 1 - self.deepconf.tokens / self.majority.tokens if self.majority.tokens else None

    @property
    def saving(self) -> Saving | None:
        """What the saving at the largest budget is made of."""
        return next((entry.saving for entry in self.budgets if entry.budget == self.budget), None)

    @property
    def cheaper_majority(self) -> BudgetScore | None:
        """The smallest majority vote that is as often right as DeepConf at the largest budget, for fewer tokens."""
        for entry in sorted(self.budgets, key=lambda entry: entry.budget):
            vote = entry.majority
            if vote and vote.accuracy >= self.deepconf.accuracy and vote.tokens < self.deepconf.tokens:
                return entry
        return None
