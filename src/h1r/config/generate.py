"""What generates traces, and what they are generated for."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from h1r.common.engines import ENGINES, Weights
from h1r.common.scaling_methods import METHODS
from h1r.common.servers import is_loopback
from h1r.config.base import Count, Fraction, NonNegative, Positive, PositiveFloat, Section
from h1r.config.corpus import CorpusBenchmark
from h1r.config.prices import PriceSection


class EndpointSection(Section):
    """A model behind the chat completions of an OpenAI-compatible API (`engine.kind = "endpoint"`)."""

    model: str | None = None
    """The model's name there. Unset: the one that the API lists, where it lists one alone."""
    parameters: dict[str, Any] = {}
    """Further keys of every request, such as `reasoning_effort = "high"`. They replace ours of the same name."""
    same_as: str | None = None
    """Host and path under which answers of this model are kept already, such as "node17/v1", where the server has
    moved. Unset: those of `url` or `urls`, without the port."""
    leave_out: list[str] = []
    """Keys of ours that the API refuses, such as `seed` or `top_p`."""
    timeout_s: PositiveFloat = 3600.0
    """Of one attempt, which is a whole answer. Our choice."""
    attempts: Positive = 8
    """Tries of one answer: after a connection that broke, a status of 5xx or an unreadable reply. Waits between them
    double. Our choice."""
    patience_s: NonNegative = 3600.0
    """For so long rate limits do not count as tries of an answer. Our choice."""
    prices: dict[str, PriceSection] = {}
    """Of each model, by its name; what an evaluation cost is told where its model has one."""
    currency: str = "USD"
    """Of the prices."""


class EngineSection(Section):
    """How traces are generated."""

    kind: str = "native"
    """Which engine generates. `native`: our own, in this process. `vllm`: vLLM, which must be installed. `server`: a
    vLLM server that runs on the same checkpoint (docs/guide/vllm.md). `endpoint`: chat completions of any
    OpenAI-compatible API, for benchmarks alone (docs/guide/evaluate.md). Or a name that a plugin registers
    (docs/guide/add-an-engine.md)."""
    options: dict[str, Any] = {}
    """What a plugin's engine reads of its own; the engines above have none."""
    url: str | None = None
    """server: where it listens, such as "http://127.0.0.1:8000". endpoint: with its `/v1`."""
    urls: list[str] = []
    """server and endpoint: several servers of one model, instead of `url`; the one with the fewest requests is asked
    next."""
    key_variable: str | None = None
    """server and endpoint: the environment variable that holds the API key, which is written to no file and in no
    message."""
    endpoint: EndpointSection = EndpointSection()
    weights_directory: str | None = None
    """vllm and server: directory that it and this process both see, for a trainer's weights on their way. Unset: the
    memory of this machine (/dev/shm), which a server elsewhere does not see."""
    max_sequences: Positive = 64
    """Sequences decoded together. server and endpoint: requests at a time."""
    prefill_tokens: Positive = 1024
    """Prompt tokens prefilled in one forward pass; a longer prompt is cut, and running sequences decode in between."""
    memory_gib: PositiveFloat | None = None
    """Memory for sequences, GiB: as many are decoded together as fit. Unset: 0.8 of what is free when a call starts."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """native and vllm: what weights are cast to. `auto`: in RL what the trainer computes in, else as they are stored;
    native on a CPU float32, which its fastest kernels take alone.
    The native engine shares its weights with a trainer, and takes no other type than the trainer's there."""
    weights: Weights = "auto"
    """native on a CPU: what the decoder in C stores its matrices as, while it computes in float32. `auto`: float32.
    `bfloat16` and `int8` read a half and a quarter of the bytes, so that one sequence, or few, are decoded faster; of a
    checkpoint that is stored in bfloat16, `bfloat16` loses nothing. Made when the engine starts; no checkpoint is
    changed. `h1r parity` says the error. Not for RL, whose log-probabilities must be the trainer's."""
    enforce_eager: bool = False
    """native and vllm: launch every operation of a decoding step by itself instead of recording steps as CUDA graphs.
    Slower; for finding errors, and where memory is short. Without a GPU there are no graphs either way."""
    max_model_len: Positive | None = None
    """vllm: longest prompt and answer together, which its cache is made for. Unset: all positions of the model."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """vllm: share of a GPU's memory that it takes, weights included. Lower it where a trainer shares the card."""

    @field_validator("kind")
    @classmethod
    def _is_registered(cls, kind: str) -> str:
        if kind not in ENGINES:
            ENGINES.require(kind)
        return kind

    @model_validator(mode="after")
    def _server_has_an_address(self) -> EngineSection:
        if self.kind == "server" and not self.addresses:
            raise ValueError('kind = "server" needs url, such as "http://127.0.0.1:8000"')
        if self.kind == "endpoint" and not self.addresses:
            raise ValueError('kind = "endpoint" needs url, such as "http://127.0.0.1:8000/v1"')
        if self.url and self.urls:
            raise ValueError("url and urls are two ways to say one thing; keep one")
        return self

    @model_validator(mode="after")
    def _only_native_has_narrow_weights(self) -> EngineSection:
        if self.weights != "auto" and self.kind != "native":
            raise ValueError(
                f'weights = "{self.weights}" is for kind = "native" alone, which is "{self.kind}" here; leave it out'
            )
        return self

    @property
    def computes(self) -> dict[str, str | None]:
        """What of this the numbers of an answer depend on."""
        narrow = {} if self.weights == "auto" else {"weights": self.weights}
        return {"kind": self.kind, "dtype": None if self.dtype == "auto" else self.dtype, **narrow}

    @property
    def addresses(self) -> list[str]:
        """`urls`, or `url` as the only one."""
        return self.urls or ([self.url] if self.url else [])

    @property
    def answers_of(self) -> str:
        """Where the answers of an endpoint are from: hosts and paths of `addresses`, or what is said instead. Not the
        port, which a server that is started again may change; this machine has one name."""
        if self.endpoint.same_as:
            return self.endpoint.same_as
        parts = [urlsplit(url) for url in self.addresses]
        hosts = [(part.hostname or "", part.path.rstrip("/")) for part in parts]
        return ",".join(
            sorted({f"{'localhost' if is_loopback(host) or host == '0.0.0.0' else host}{path}" for host, path in hosts})
        )


class CaseSection(Section):
    """Rows of a benchmark that are asked, or graded, in a way of their own: problems with starter code, or answers of
    one type."""

    when: dict[str, str]
    """Column -> value: the rows that it is for have all of these. "" is also a column that is null or absent."""
    prompt: str | None = None
    """What is asked in place of the benchmark's prompt. Unset: that."""
    verifier: str | None = None
    """What grades their answers in place of the benchmark's verifier. Unset: that."""
    constants: dict[str, Any] = {}
    """Metadata that is the same in all of them, over the benchmark's."""


class BenchmarkSection(CorpusBenchmark):
    """A benchmark that `h1r eval` runs beside the held-out problems (section 4.1). Its verifier grades the answers."""

    samples: Positive | None = None
    """Answers per problem. Unset: `eval.samples`."""
    max_tokens: Positive | None = None
    """Longest answer. Unset: `eval.max_tokens`."""
    prompt: str = "{question}"
    """What the model is asked. {question}, {options} (a line each, lettered), {name} of any `metadata` are put in."""
    options: list[str] = []
    """Columns with the options of multiple choice: one that holds a list, or several, the right one first, which are
    shuffled by a function of the problem's id."""
    only: dict[str, str] = {}
    """Column -> value: rows that have another are left out."""
    without: dict[str, str] = {}
    """Column -> value: rows that have it are left out."""
    constants: dict[str, Any] = {}
    """Metadata that is the same for every row, such as options of the verifier: `constants = { decimals = 4 }`."""
    cases: list[CaseSection] = []
    """Rows with a prompt, a verifier or constants of their own; of several cases the first that a row fits."""
    index_from: Literal[0, 1] | None = None
    """What the first option has as its number, where the answers of a list of options are numbers (MMLU: 0)."""
    only_gradable: bool = False
    """Leave out what no rule can grade: several questions with one reference, a figure that is not there, a reference
    that is prose. How many is said. Our choice of rules."""
    limit: Count = 0
    """Problems asked, the first ones; 0: all."""
    expect: Count = 0
    """Problems that the benchmark has, those that cannot be used among them; 0: any number."""
    allow_unusable: Count | Literal["any"] = 0
    """Problems that may be left out: rows that cannot be read or asked, references that do not score, problems that pay
    an answer which solves nothing. With more the evaluation stops before anything is asked."""

    @model_validator(mode="after")
    def _asks_the_question(self) -> BenchmarkSection:
        for prompt in (self.prompt, *(case.prompt for case in self.cases if case.prompt is not None)):
            if "{question}" not in prompt:
                raise ValueError(
                    f"the prompt of benchmark `{self.name}` has no {{question}}; put it where the text belongs"
                )
            if bool(self.options) != ("{options}" in prompt):
                raise ValueError(
                    f"benchmark `{self.name}` needs both `options` and {{options}} in its prompt, or neither"
                )
        return self


class RoleSection(Section):
    """Another model that a task of inspect_ai asks: one that plays the user, or one that grades."""

    model: str
    """Its name as inspect_ai has it ("openai/gpt-4.1", "h1r/CHECKPOINT"); with `url` its name there."""
    url: str | None = None
    """An OpenAI-compatible API, with its `/v1`."""
    key_variable: str | None = None
    """The environment variable that holds the key of `url`."""


class InspectSection(Section):
    """A benchmark that inspect_ai runs on our model: agents, tools, simulated users; needs the extra `inspect`."""

    kind: Literal["inspect"]
    """Who runs it."""
    name: str
    """The name under which it is reported."""
    task: str
    """The task as inspect_ai has it: "inspect_evals/tau2_telecom", or "FILE.py@task"."""
    args: dict[str, Any] = {}
    """The task's own arguments."""
    roles: dict[str, RoleSection] = {}
    """Other models that the task asks, such as `user` and `grader`. Unset: the evaluated model plays them too."""
    sandbox: str | None = "h1r"
    """Where its programs run: ours, in place of what the task names. Unset: what the task names, such as Docker."""
    files: str | None = None
    """What the samples find in our sandbox: a folder, or a Dockerfile, whose copied files these are; "PACKAGE:PATH" is
    a path in an installed package."""
    scorer: str | None = None
    """Whose score counts, where the task has several. Unset: the first."""
    samples: Positive | None = None
    """Answers per problem. Unset: `eval.samples`."""
    max_tokens: Positive | None = None
    """Longest reply of the model. Unset: `eval.max_tokens`."""
    limit: Count = 0
    """Problems asked, the first ones; 0: all."""
    expect: Count = 0
    """Problems that the task has; 0: any number."""


class SafetySection(BenchmarkSection):
    """Prompts whose answers a guard model scores (appendix E): `[[eval.safety]]`."""

    verifier: str = ""
    """Nothing is verified; the guard scores the answers."""
    samples: Positive | None = 1
    """Answers to a prompt. The paper gives no number; our choice."""


class GuardSection(Section):
    """The model that calls a text safe or unsafe (appendix E: Llama-Guard-3-8B).

    An API key is no part of a recipe: it is read from the environment variable H1R_GUARD_API_KEY.
    """

    urls: list[str] = []
    """OpenAI-compatible servers with their `/v1`. Empty: `eval.safety` is refused."""
    model: str = "meta-llama/Llama-Guard-3-8B"
    """The model's name there."""
    format: Literal["llama_guard", "words"] = "llama_guard"
    """How it is asked: with the conversation, which the chat template of Llama Guard puts into its own words, or with
    our words, for any chat model."""
    concurrency: Positive = 32
    """Requests at once on each server. Our choice."""
    timeout_s: PositiveFloat = 120.0
    """Of one attempt. Our choice."""
    attempts: Positive = 5
    """Tries of one request before the answer counts as unscored. Our choice."""
    max_tokens: Positive = 256
    """Longest reply of the guard. Our choice."""


class EvalSection(Section):
    """pass@1 averaged over n samples (section 4.1)."""

    samples: Positive = 16
    """Answers per problem, n."""
    temperature: NonNegative = 0.6
    """Sampling temperature; 0 is greedy."""
    top_p: Fraction = 0.95
    """Nucleus."""
    max_tokens: Positive = 65536
    """Longest answer."""
    confidence_level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the bootstrap intervals."""
    held_out: bool = True
    """Ask the run's held-out problems, where it has curated data. Benchmarks are asked either way."""
    benchmarks: list[Annotated[BenchmarkSection | InspectSection, Field(discriminator="kind")]] = []
    safety: list[SafetySection] = []
    """Prompts whose answers a guard model scores."""
    guard: GuardSection = GuardSection()

    @property
    def own(self) -> list[BenchmarkSection]:
        """The benchmarks that are files or data sets of the hub."""
        return [one for one in self.benchmarks if isinstance(one, BenchmarkSection)]

    @property
    def delegated(self) -> list[InspectSection]:
        """The benchmarks that inspect_ai runs."""
        return [one for one in self.benchmarks if isinstance(one, InspectSection)]

    @model_validator(mode="after")
    def _names_differ(self) -> EvalSection:
        for names in ([one.name for one in self.benchmarks], [one.name for one in self.safety]):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two benchmarks are called `{twice[0]}`; rename one")
        return self


class ScalingSection(Section):
    """DeepConf (section 5.1; arXiv 2508.15260), or another method of test-time scaling."""

    method: str = "deepconf"
    """How a budget of traces becomes an answer: `deepconf`, `majority`, `adaptive_consistency`, `esc`, `cges`,
    `bayesian_stopping`, `best_of_n`, `borda`, `short_1`, `short_3`, `no_loops` (docs/guide/scaling-methods.md), or a
    name that a plugin registers."""
    options: dict[str, Any] = {}
    """What the method reads of its own, such as `certain = 0.9`; DeepConf has the keys below instead."""
    problems: Positive = 30
    """Held-out problems to scale on."""
    budgets: list[Positive] = [512]
    """Traces per problem, the warm-up included."""
    warmup: Annotated[int, Field(ge=2)] = 16
    """Traces generated whole, from which the threshold is set."""
    keep_top: Annotated[float, Field(gt=0, lt=1)] = 0.10
    """Share of warm-up traces that must lie above the threshold: 0.10 puts it at their 90th percentile."""
    reading: Literal["keep_top", "literal"] = "keep_top"
    """Which percentile is meant: `literal` puts the threshold at the one the paper's words name, 0.10 at the 10th."""
    warmup_votes: Literal["above_threshold", "all"] = "above_threshold"
    """Which answered warm-up traces vote; those below the threshold do not in the reference implementation."""
    window: Positive = 2048
    """Tokens per confidence group."""
    top_k: Positive = 20
    """Most likely tokens that enter a token confidence."""
    tau: Annotated[float, Field(gt=0, le=1)] | None = None
    """Consensus stop: end when the leading answer's share of the vote reaches it. Unset: never, as in the paper."""
    consensus: Literal["share", "lead"] = "share"
    """What reaches tau: the share (Algorithm 2), or `lead`, the probability that the leader beats the runner-up."""
    voter: Literal[
        "majority",
        "mean",
        "tail",
        "bottom_window",
        "min_window",
        "top10_tail_filtered",
        "top10_bottom_window_filtered",
    ] = "min_window"
    """How traces are weighted in the vote."""
    temperature: PositiveFloat = 0.6
    """Sampling temperature of the traces."""
    top_p: Fraction = 0.95
    """Nucleus of the traces."""
    max_tokens: Positive = 65536
    """Longest trace."""

    @field_validator("method")
    @classmethod
    def _is_registered(cls, method: str) -> str:
        if method not in METHODS:
            METHODS.require(method)
        return method

    @model_validator(mode="after")
    def _warmup_fits(self) -> ScalingSection:
        if self.method == "deepconf" and self.budgets and min(self.budgets) < self.warmup:
            raise ValueError(
                f"budgets must be at least warmup ({self.warmup}), since warm-up traces count; give larger budgets "
                "or a smaller warmup"
            )
        return self
