"""Curation (`[corpus]`): sources of every kind, benchmarks, traces, mixture, and where it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from h1r.config.base import Count, Fraction, Positive, PositiveFloat, Section
from h1r.config.prices import PriceSection

Format = Literal["jsonl", "json", "csv", "parquet", "hub"]
GENERATED = "reasoning_gym/"
"""What the names of generated sources begin with, and the `source` of their problems."""


class CorpusBenchmark(Section):
    """Held-out problems: what overlaps them is never trained on."""

    name: str
    """The name under which overlaps are reported."""
    kind: Format
    """What is read: `json` is one array of objects, `csv` has its columns' names in the first row; files may be
    compressed with gzip or Zstandard."""
    path: str
    """File, pattern of files (`*.parquet`), `h1r:NAME` of a file that comes with the package, or `owner/name` of a
    data set on the hub. Relative to `corpus.root`."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    revision: str | None = None
    """Commit of a hub data set, or a branch or tag. Unset: what its `main` has on that day."""
    columns: dict[str, str] = {}
    """Our field ("question", "answer", "id", "family") -> column; dots reach into objects and, by number, lists, and a
    name that holds dots itself is found as it is. An answer of null, NaN or N/A is none."""
    verifier: str = "math"
    """The verifier that can read the reference answers; "" where nothing can be verified, as in chats."""
    metadata: dict[str, str] = {}
    """What the verifier needs beyond the answer -> column, which may lack it where the name ends in `?`."""


class CorpusSource(CorpusBenchmark):
    """Problems, or conversations, to train on."""

    columns: dict[str, str] = {}
    """Our field -> column: those of a benchmark, "solution", "pass_rate", "prompt" and "completion" (text or turns; a
    list of completions is as many traces), "reward", "finish_reason", "tools", "tests", "language"."""
    domain: str = "math"
    """The domain it counts for in the mixture."""
    share: PositiveFloat | None = None
    """Draw the problems that `[problems]` asks for from this and the other sources with a share, in proportion. Unset:
    every row is taken, for `use`."""
    use: Literal["sft", "rl", "split"] = "sft"
    """What its problems are for; `split` gives each to one of both, by `corpus.rl_share`."""
    strip: list[str] = []
    """Instructions that every question of this source ends with; taken off."""
    question_pattern: str | None = None
    """A regular expression whose first group is the question, for prompts that carry a template."""
    pass_rate_as: Literal["share", "percent", "failed_share", "failed_percent"] = "share"
    """What the pass-rate column holds."""
    rollouts: Count = 0
    """Rollouts behind the published pass rate."""
    group_by: str | None = None
    """Column that is equal for the traces of one problem where these stand together: they are read as one. Those of
    one question that stand apart, in other files or sources too, are brought together in any case."""
    chain_of_thought: Literal["tagged", "plain"] = "tagged"
    """Where the thinking of a trace ends: at its tags; or, for text without any, before its last paragraph."""
    trust_rewards: bool = False
    """Take the recorded rewards as verdicts. Else a trace is verified anew, and one that cannot be is kept as it is."""
    language: str | None = None
    """Programming language that the code of an answer must be in."""


class GeneratedSource(Section):
    """A procedural family of `reasoning-gym` with its difficulty knobs. Problems are drawn from it without end."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    """Problems made on the spot."""
    family: str
    """The family's name in reasoning-gym."""
    share: PositiveFloat = 1.0
    """Share of the problems that `[problems]` asks for, relative to the other sources with a share."""
    knobs: dict[str, Any] = {}
    """The family's own settings, by their reasoning-gym names. Lists set a range where it takes one."""
    wordings: Literal["library", "everyday"] = "library"
    """How questions are asked: as reasoning-gym does, or in several everyday ways, for the families that have them
    (`data/wordings.py`). Our choice."""
    numbers: Literal["library", "everyday"] = "library"
    """Numbers as reasoning-gym makes them, or as people have them, for the families of `everyday_numbers` alone: those
    of a sum (`chain_sum`) or product (`products`) have a length each, where the library gives all of one problem the
    same; whole numbers in `number_sorting` have no `.0`. Our choice."""
    domain: str = "math"
    """The domain it counts for in the mixture."""

    @property
    def name(self) -> str:
        return f"{GENERATED}{self.family}"


Source = Annotated[GeneratedSource | CorpusSource, Field(discriminator="kind")]


class TraceSection(Section):
    """Traces for problems that have none."""

    by: Literal["source", "engine", "endpoint"] = "source"
    """What the sources bring; our engine with `model.checkpoint`; or a teacher behind an OpenAI-compatible endpoint."""
    url: str | None = None
    """Base address of the endpoint, as in http://localhost:8000/v1."""
    model: str | None = None
    """The teacher's name at the endpoint. The paper found one teacher better than several."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key; without it none is sent."""
    n: Positive = 12
    """Traces a problem (paper: 12 is best of 4, 8, 12)."""
    temperature: PositiveFloat = 0.6
    """Sampling temperature."""
    top_p: Fraction = 0.95
    """Nucleus."""
    max_tokens: Positive = 32768
    """Longest trace."""
    concurrency: Positive = 32
    """Problems under way at the endpoint at once, or in one batch of the engine."""
    retries: Count = 5
    """Tries again after a failed request, with growing pauses; then the problem waits for the next round."""
    rounds: Positive = 3
    """Rounds in which a problem is asked that fails while others are answered; then it is set aside. Our choice."""
    price: PriceSection | None = None
    """What the teacher's tokens cost; the cost is shown while traces are made."""
    currency: str = "USD"
    """Of the price."""
    timeout_s: PositiveFloat = 3600.0
    """Wall time of one request."""
    keep_wrong_if_hard: bool = False
    """Keep wrong traces of problems that are never solved, as OpenThoughts does; the paper saw a marginal gain."""


class MixtureSection(Section):
    """Shares of the domains in the SFT data."""

    shares: dict[str, float] = {}
    """Domain -> share. Empty: everything that is left. Paper: math 0.559, code 0.27, science 0.1, other 0.071."""
    by: Literal["samples", "tokens"] = "samples"
    """What the shares are of. The paper's token shares: math 0.568, code 0.298, science 0.071, other 0.064."""

    @model_validator(mode="after")
    def _positive(self) -> MixtureSection:
        if any(share <= 0 for share in self.shares.values()):
            raise ValueError("shares must be positive; leave a domain out to drop it")
        return self


class CorpusSection(Section):
    """What is curated, and how: sources, benchmarks, traces, mixture, and where the work runs."""

    root: str = "."
    """Directory that relative paths start from. `$NAME` stands for an environment variable."""
    sources: list[Source] = []
    """Generated families and files, by `kind`."""
    benchmarks: list[CorpusBenchmark] = []
    seed: int = 0
    """Of every random choice; each is a function of it and the record's id."""
    shard_records: Positive = 5000
    """Records of a shard: what is worked on at once, and lost at most by a crash."""
    rl_share: Fraction = 0.5
    """Share of the problems of `split` sources that goes to RL. Our choice."""
    published: Literal["draw", "rate"] = "draw"
    """Published pass rates in the RL rule: `draw` takes `rl_pool.rollouts` of the rollouts at random, `rate` all."""
    max_tokens: Positive = 49152
    """Longer samples are dropped; the paper trims at 48K."""
    max_tokens_by: dict[str, Positive] = {}
    """Domain -> limit of its samples in tokens; `max_tokens` for the others."""
    max_question_chars: Count = 500_000
    """Rows whose question has more characters are set aside as they are read, before anything is computed from them;
    0: none. Our choice: ten characters for each of `max_tokens`."""
    pack_tokens: Count = 0
    """Tokens of a packed row; 0: `sft.seq_len`."""
    executor: Literal["local", "ray"] = "local"
    """Processes of this machine, or Ray Data. The output is the same."""
    workers: Count = 0
    """Processes, or Ray tasks at once; 0: one for each core (Ray: as many as it has)."""
    address: str | None = None
    """Of the Ray cluster; unset: a local one. Its machines must share the run directory and the files."""
    memory_mb: Positive = 128
    """Memory of the joins over all records, which go through more of them in more parts. Our choice."""
    templates_from: Positive = 5000
    """Questions of a family that its boilerplate is read from. Our choice."""
    examples: Count = 5
    """Dropped records shown on the page for each reason."""
    traces: TraceSection = TraceSection()
    domains: list[str] = []
    """Further domains, which a classifier gives (`curate.classifiers`)."""
    mixture: MixtureSection = MixtureSection()

    @model_validator(mode="after")
    def _can_work(self) -> CorpusSection:
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two benchmarks are called `{twice[0]}`; rename one")
        names = [source.name for source in self.sources if isinstance(source, CorpusSource)]
        if taken := [name for name in names if name.startswith(GENERATED)]:
            raise ValueError(f"source `{taken[0]}` has a name of generated problems; rename it")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called `{twice[0]}`; rename one")
        if self.traces.by == "endpoint" and not (self.traces.url and self.traces.model):
            raise ValueError("traces.by = `endpoint` needs traces.url and traces.model")
        domains = {source.domain for source in self.sources} | set(self.domains)
        if self.sources and (unknown := sorted(set(self.max_tokens_by) - domains)):
            raise ValueError(f"max_tokens_by names domain `{unknown[0]}`, which no source has")
        if self.sources and (unknown := sorted(set(self.mixture.shares) - domains)):
            raise ValueError(f"mixture.shares names domain `{unknown[0]}`, which no source has")
        return self
