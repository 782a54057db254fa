"""The recipe tree: typed, read from TOML, unknown keys refused. Imports no torch.

Every number of the paper's recipe is a field here; where the paper is silent the default is our choice and says so.
Section numbers refer to arXiv 2601.02346.
"""

from __future__ import annotations

import difflib
import json
import reprlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from h1r.errors import UserError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A table of the recipe: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSection(Section):
    """Which model: a preset built from random weights, or a `falcon_h1` checkpoint (directory or hub id)."""

    preset: str | None = None
    """A preset's name; `tiny` when no checkpoint is given either. "" unsets that of a recipe this one `extends`."""
    checkpoint: str | None = None
    """Start from this checkpoint instead of random weights."""
    kernels: Literal["auto", "reference", "torch", "native", "triton"] = "auto"
    """What the operators run on; `auto` takes the fastest that this machine can run and says which."""
    overrides: dict[str, Any] = {}
    """Fields of the model's own config, by their Hugging Face names, laid over the preset."""

    @model_validator(mode="before")
    @classmethod
    def _default_origin(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = {key: None if key in ("preset", "checkpoint") and value == "" else value for key, value in data.items()}
        return data if data.get("preset") or data.get("checkpoint") else {**data, "preset": "tiny"}

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if self.preset and self.checkpoint:
            raise ValueError('set `preset` or `checkpoint`, not both ("" unsets an extended one)')
        return self


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


class OptimizerSection(Section):
    learning_rate: PositiveFloat
    """Peak learning rate of AdamW."""
    vector_lr_scale: PositiveFloat = 1.0
    """Factor on the rate of vectors (norms, biases, A_log, D, dt_bias), whose rate muP does not shrink with width."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW."""
    eps: PositiveFloat = 1e-8
    """AdamW."""
    weight_decay: NonNegative = 0.01
    """Decoupled, on matrices only."""
    grad_clip: PositiveFloat = 1.0
    """Largest gradient norm."""


class SFTSection(Section):
    """Supervised fine-tuning (Table 1)."""

    optimizer: OptimizerSection = OptimizerSection(learning_rate=1024e-6)
    epochs: PositiveFloat = 3
    """Passes over the samples."""
    batch_size: Positive = 512
    """Packed rows per optimiser step."""
    micro_batch_size: Positive = 4
    """Packed rows per forward pass; the loss does not depend on it."""
    seq_len: Positive = 36864
    """Tokens per packed row; longer samples are right-trimmed."""
    warmup_ratio: Fraction = 0.04
    """Share of all steps over which the learning rate rises linearly."""
    min_lr_ratio: Fraction = 0.0
    """Final over peak learning rate of the linear schedule; not given by the paper. Our choice."""
    checkpoint_every: Positive = 100
    """Optimiser steps between checkpoints to resume from."""


class BackfillSection(Section):
    """Zero-advantage groups (section 3.3): `backfill` is the paper's choice, the others were tried there."""

    mode: Literal["backfill", "reject", "duplicate"] = "backfill"
    """`backfill` from the cache, `reject` the group, or `duplicate` a useful one."""
    cache_groups: Count = 64
    """Surplus groups kept for later steps; size not given by the paper. Our choice."""
    max_age: Positive = 2
    """Optimiser steps after which a cached group is too far off-policy; not given by the paper. Our choice."""
    max_rounds: Positive = 3
    """Generation rounds per step after which a short batch is taken as it is: a solved data set must not loop."""


class RLSection(Section):
    """GRPO with the paper's changes (section 3.2 to 3.4, Table 2)."""

    optimizer: OptimizerSection = OptimizerSection(learning_rate=2e-6)
    steps: Positive = 100
    """Rollout batches."""
    warmup_steps: Count = 10
    """Steps over which the learning rate rises linearly; constant after."""
    batch_size: Positive = 128
    """Prompts (groups) per optimiser step."""
    num_generations: Annotated[int, Field(ge=2)] = 16
    """Rollouts per prompt, G."""
    temperature: PositiveFloat = 0.85
    """Sampling temperature of the rollouts."""
    max_tokens: Positive = 49152
    """Longest rollout."""
    epsilon_low: PositiveFloat = 0.2
    """The ratio is clipped at 1 - epsilon_low."""
    epsilon_high: PositiveFloat = 0.28
    """The ratio is clipped at 1 + epsilon_high (clip-higher)."""
    tis_cap: PositiveFloat = 2.0
    """Cap of the truncated importance weight between sampler and trainer."""
    tis_level: Literal["token", "sequence"] = "token"
    """Not stated by the paper. Our choice."""
    positive_ce: NonNegative = 0.1
    """Coefficient of the cross-entropy on positive samples; not given by the paper (VAPO's value)."""
    aggregation: Literal["token-mean", "seq-mean-token-mean"] = "token-mean"
    """Not stated by the paper; token-mean is DAPO's."""
    normalise_std: bool = True
    """Divide advantages by the group's standard deviation, as printed in the paper."""
    format_penalty: NonNegative = 0.1
    """Subtracted from the reward of an answer not of the form `<think> ... </think> answer`. Our choice of size."""
    updates_per_batch: Positive = 1
    """Optimiser steps per rollout batch. 1 is on-policy: PPO batch = batch in the paper."""
    micro_batch_tokens: Positive = 16384
    """Tokens per forward pass; the loss does not depend on it."""
    backfill: BackfillSection = BackfillSection()
    checkpoint_every: Positive = 10
    """Steps between checkpoints to resume from."""


class ParallelSection(Section):
    """How the processes that `torchrun` starts share SFT; one process needs none of it. May change within a run."""

    context: Positive = 1
    """Processes that share one packed row, by tokens and heads; must divide the query heads and the SSM heads."""
    data: Annotated[int, Field(ge=-1)] = -1
    """Groups of `context` processes, each with rows of its own; -1: as many as there are processes for."""

    @model_validator(mode="after")
    def _some_data(self) -> ParallelSection:
        if self.data == 0:
            raise ValueError("data must be -1 or at least 1")
        return self


class EngineSection(Section):
    """How traces are generated."""

    kind: Literal["native"] = "native"
    """Which engine generates."""
    max_sequences: Positive = 64
    """Sequences decoded together."""
    prefill_tokens: Positive = 4096
    """Prompt tokens prefilled in one forward pass."""


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


class ScalingSection(Section):
    """DeepConf (section 5.1; arXiv 2508.15260)."""

    problems: Positive = 30
    """Held-out problems to scale on."""
    budgets: list[Positive] = [512]
    """Traces per problem, the warm-up included."""
    warmup: Annotated[int, Field(ge=2)] = 16
    """Traces generated whole, from which the threshold is set."""
    keep_top: Annotated[float, Field(gt=0, lt=1)] = 0.10
    """Share of warm-up traces that must lie above the threshold: 0.10 puts it at their 90th percentile."""
    warmup_votes: Literal["above_threshold", "all"] = "above_threshold"
    """Which answered warm-up traces vote; those below the threshold do not in the reference implementation."""
    window: Positive = 2048
    """Tokens per confidence group."""
    top_k: Positive = 20
    """Most likely tokens that enter a token confidence."""
    tau: Annotated[float, Field(gt=0, le=1)] | None = None
    """Consensus stop: end when the leading answer's share of the vote reaches it. Unset: never, as in the paper."""
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

    @model_validator(mode="after")
    def _warmup_fits(self) -> ScalingSection:
        if self.budgets and min(self.budgets) < self.warmup:
            raise ValueError(f"budgets must be at least warmup ({self.warmup}), since warm-up traces count")
        return self


class Recipe(Section):
    """One experiment. `extends` in the TOML file names another recipe that this one is laid over."""

    name: str
    """The run's name; its directory is `runs/NAME` unless `--out` says otherwise."""
    seed: int = 0
    """Of weights, order and sampling. The choice of problems has its own, `problems.seed`."""
    threads: Count = 0
    """CPU threads for torch; 0 leaves torch's own choice."""
    model: ModelSection = ModelSection()
    tokenizer: TokenizerSection = TokenizerSection()
    chat: ChatSection = ChatSection()
    problems: ProblemsSection = ProblemsSection()
    curate: CurateSection = CurateSection()
    rl_pool: RLPoolSection = RLPoolSection()
    sft: SFTSection = SFTSection()
    rl: RLSection = RLSection()
    parallel: ParallelSection = ParallelSection()
    engine: EngineSection = EngineSection()
    eval: EvalSection = EvalSection()
    scaling: ScalingSection = ScalingSection()


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Reads a TOML recipe, lays it over the ones it `extends`, then `overrides` ({"rl.steps": 5}) over both.

    A run directory's `recipe.json`, which is already resolved, is read the same way.

    Every mistake raises `UserError`: missing file, TOML syntax (with its line), unknown key (with the nearest known
    one), value out of range.
    """
    return resolve(_read_toml(Path(path), ()), overrides, str(path))


def resolve(tree: dict[str, Any], overrides: dict[str, Any] | None, place: str) -> Recipe:
    """The recipe of a tree of keys with `overrides` laid over it; `place` is where messages say that it came from."""
    for key, value in (overrides or {}).items():
        _set(tree, key.split("."), value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{place}: {_explain(error)}") from None


def _read_toml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: recipes extend each other in a circle; remove one `extends`")
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; a recipe is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}; mend that line") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); give the TOML recipe instead") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a table of keys; give a TOML recipe")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    return _merge(_read_toml(path.parent / str(base), (*seen, path.resolve())), tree)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1], 1):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UserError(
                f"`{'.'.join(keys)}` cannot be set: `{'.'.join(keys[:depth])}` is no table; set that key whole"
            )
    tree[keys[-1]] = value


def _explain(error: ValidationError) -> str:
    """One sentence for the first complaint, with the nearest known key for an unknown one."""
    detail = error.errors()[0]
    parts = [str(part) for part in detail["loc"]]
    place = ".".join(parts)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], _known_keys(parts[:-1]), n=1)
        return f"unknown key `{place}`" + (f"; did you mean `{near[0]}`?" if near else "; remove it")
    if detail["type"] == "missing":
        return f"key `{place}` is missing; add it"
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return f"`{place}` needs a `kind`: one of reasoning_gym, jsonl, parquet, hub"
    message = detail["msg"].removeprefix("Value error, ")
    refused = f"`{place}` = {reprlib.repr(detail['input'])} is refused: " if place else ""
    return f"{refused}{message[:1].lower()}{message[1:]}"


def _known_keys(parts: list[str]) -> list[str]:
    found: Any = Recipe
    for part in parts:
        if part == "sources" or part.isdigit():
            continue
        if part in ("reasoning_gym", "jsonl", "parquet", "hub"):
            found = GeneratedSource if part == "reasoning_gym" else FileSource
            continue
        info = getattr(found, "model_fields", {}).get(part)
        if info is None:
            return []
        found = info.annotation
    return list(getattr(found, "model_fields", {}))
