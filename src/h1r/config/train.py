"""The model, and what trains it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from h1r.config.base import Count, Fraction, NonNegative, Positive, PositiveFloat, Section
from h1r.config.curriculum import CurriculumSection
from h1r.config.end_early import EndEarlySection


class ModelSection(Section):
    """Which model: a preset built from random weights, or a checkpoint (directory or hub id) of a known family:
    `falcon_h1`, `qwen3` (dense), or one that a plugin registers (docs/guide/add-a-model.md)."""

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


class OptimizerSection(Section):
    kind: Literal["adamw", "muon", "adamw8bit"] = "adamw"
    """`adamw`: the paper's. `muon`: Muon on the matrices of the layers, AdamW on embedding, head and vectors; steps are
    scaled to the size of AdamW's (arXiv 2502.16982), so that the same `learning_rate` and `weight_decay` hold. In
    shards each process gathers the matrices and steps all of them. `adamw8bit`: torchao's, with moments of 8 bits, of
    what a process has of a weight where that is at least 4,096 numbers in whole blocks of 256, else of 32; it needs the
    extra `torchao`."""
    learning_rate: PositiveFloat
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """muon: share of the mean gradient so far that stays at each step."""
    vector_lr_scale: PositiveFloat = 1.0
    """Factor on the rate of vectors (norms, biases, A_log, D, dt_bias), whose rate muP does not shrink with width."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: PositiveFloat = 1e-8
    """Of AdamW."""
    weight_decay: NonNegative = 0.01
    """Decoupled, on matrices only."""
    grad_clip: PositiveFloat = 1.0
    """Largest gradient norm."""


ComputeDtype = Literal["stored", "float32", "bfloat16"]


class ValidationSection(Section):
    """Documents that are kept out of SFT, and their loss while it runs."""

    documents: Count = 0
    """How many are kept out, drawn by the recipe's seed; their loss is `validation_loss` in nats per token. 0: none."""
    every: Positive = 100
    """Optimiser steps between two measurements; the last step always has one. Our choice."""
    publish: Literal["last", "best"] = "last"
    """Which model the stage ends with: the last, or that of the least validation loss. Our choice: the last, as the
    paper's."""

    @model_validator(mode="after")
    def _something_to_go_by(self) -> ValidationSection:
        if self.publish == "best" and not self.documents:
            raise ValueError('publish = "best" needs documents to tell the best by; set `documents`')
        return self


class MixedDataSection(Section):
    """Data of `[[sft.mixture]]`, and their part of every batch (section 2: batches that reflect the mixture)."""

    data: str
    """As `sft.data`: a directory that `h1r curate` wrote, or a file. The tokenizer of the first is that of the run."""
    share: PositiveFloat
    """Of the tokens trained on, in proportion to the other shares."""
    columns: dict[str, str] = {}
    """As `sft.columns`."""


class SFTSection(Section):
    """Supervised fine-tuning (Table 1)."""

    data: str | None = None
    """A directory that `h1r curate` wrote (RUN/curate), for its packed shards and tokenizer; or a file of chats, or of
    questions and answers (.jsonl, .json, .csv, .parquet), which is trained on as it is. Unset: this run's curation."""
    columns: dict[str, str] = {}
    """Of such a file: our field ("question", "answer", "messages", ...) -> column. Empty: by their usual names."""
    mixture: list[MixedDataSection] = []
    """Several such data, instead of `data`, mixed by shares of tokens in every batch. A pass (`epochs`) is as many
    tokens as they have together: data with a small share go on in the next pass where they stopped, and small data with
    a large share are repeated."""
    optimizer: OptimizerSection = OptimizerSection(learning_rate=1024e-6)
    epochs: PositiveFloat = 3
    """Passes over the samples."""
    batch_size: Positive = 512
    """Packed rows per optimiser step. The paper's 512 are samples, perhaps not packed; a row holds several."""
    micro_batch_size: Positive = 4
    """Packed rows per forward pass; the loss does not depend on it."""
    seq_len: Positive = 36864
    """Tokens per packed row; `overlong` says what becomes of longer samples."""
    overlong: Literal["trim", "drop", "refuse"] = "trim"
    """Samples longer than `seq_len`: trimmed on the right, end token and all (paper); left out; or an error."""
    max_overlong: Fraction = 0.5
    """Share of such samples beyond which nothing is trained: a model of trimmed answers never learns to end one. 1: no
    limit. Our choice."""
    warmup_ratio: Fraction = 0.04
    """Share of all steps over which the learning rate rises linearly."""
    min_lr_ratio: Fraction = 0.0
    """Final over peak learning rate of the linear schedule; not given by the paper. Our choice."""
    compute_dtype: ComputeDtype = "stored"
    """What the forward and backward passes run in. `stored`: what the checkpoint is stored in. `bfloat16` (the
    paper's) and `float32` keep weights, gradients and optimiser in fp32, which is what is saved."""
    checkpoint_every: Positive = 100
    """Optimiser steps between checkpoints to resume from."""
    keep_checkpoints: Positive = 2
    """Checkpoints that are kept, the newest ones. Our choice."""
    time_limit_s: PositiveFloat | None = None
    """Seconds after which an attempt saves a checkpoint and ends with exit code 75, as it does on SIGTERM; `--resume`
    goes on. Unset: no limit."""
    validation: ValidationSection = ValidationSection()
    max_idle_steps: Count = 50
    """Steps in a row whose gradient is not finite that end the run with an error. One with none but these, or whose
    weights are not finite at its end, writes no model. 0: neither is looked at. Our choice."""

    @model_validator(mode="after")
    def _one_way_to_name_data(self) -> SFTSection:
        if self.mixture and (self.data or self.columns):
            raise ValueError("sft.mixture names its own data and columns; leave out sft.data and sft.columns")
        return self

    @property
    def leading_data(self) -> str | None:
        """`data`, or the first of the mixture: its tokenizer and its problems are those of the run."""
        return self.mixture[0].data if self.mixture else self.data


class BackfillSection(Section):
    """Zero-advantage groups (section 3.3): `backfill` is the paper's choice, the others were tried there."""

    mode: Literal["backfill", "reject", "duplicate"] = "backfill"
    """`backfill` from the cache, `reject` the group, or `duplicate` a useful one."""
    cache_groups: Count = 64
    """Surplus groups kept for later steps; size not given by the paper. Our choice."""
    max_age: Positive = 2
    """Optimiser steps after which a cached group is too far off-policy; not given by the paper. Our choice."""
    format_only: bool = True
    """Whether a group whose rewards differ in format alone counts as one that teaches. Divided by their deviation, its
    small differences weigh as much as those between right and wrong; a model that solves nothing yet learns the format
    from them. Our choice: yes; `recipes/h1r-7b.toml` says no."""
    max_rounds: Positive = 3
    """Generation rounds per step after which a short batch is taken as it is: a solved data set must not loop."""
    overdraw: Annotated[NonNegative, Field(le=10)] = 0.0
    """`backfill`: the share by which a round draws more than the yield so far asks for, at most `max_rounds` batches;
    what is over waits in the cache. Rounds follow one another, and each waits for its longest rollout: 0.15 makes one
    of two or three (docs/guide/scaling.md). 0: no more than it asks for, and at most a batch. Our choice."""


ALGORITHM_DEFAULTS: dict[str, dict[str, Any]] = {
    # Both biases of GRPO out; the sum over tokens is divided by the generation budget.
    "dr_grpo": {
        "normalise_std": False,
        "aggregation": "seq-mean-token-sum-norm",
        "epsilon_high": 0.2,
        "positive_ce": 0.0,
    },
    # Ranges of the sequence's ratio: section 5.1 of the paper.
    "gspo": {
        "aggregation": "seq-mean-token-mean",
        "epsilon_low": 3e-4,
        "epsilon_high": 4e-4,
        "positive_ce": 0.0,
    },
    # No lower bound; the paper does not give the upper one. 5 is that of arXiv 2510.13786.
    "cispo": {"epsilon_low": 1.0, "epsilon_high": 4.0, "positive_ce": 0.0},
}
"""What an algorithm's paper sets in [rl] where the recipe does not: `grpo` and losses of plugins have the defaults
below."""
DEFAULT_REWARDS = {"correct": 1.0, "format": 0.1}


class RLSection(Section):
    """Policy gradients on groups of rollouts. The defaults are GRPO with the paper's changes (section 3.2 to 3.4, Table
    2); another `algorithm` brings those of its own paper, listed at the key."""

    algorithm: str = "grpo"
    """The policy loss. `grpo`: as in the paper. `dr_grpo` (arXiv 2503.20783): `normalise_std` false, `aggregation`
    "seq-mean-token-sum-norm", `epsilon_high` 0.2. `gspo` (2507.18071): ratios of whole sequences, `epsilon_low` 3e-4,
    `epsilon_high` 4e-4, `aggregation` "seq-mean-token-mean". `cispo` (2506.13585): clipped importance weights,
    `epsilon_low` 1 (no lower bound), `epsilon_high` 4. Those three set `positive_ce` to 0. Or a name that a plugin
    registers (docs/guide/add-a-loss.md)."""
    algorithm_options: dict[str, Any] = {}
    """Numbers that a plugin's loss reads; the losses above have none."""
    checkpoint: str | None = None
    """Start from this checkpoint (directory or hub id). Unset: this run's SFT model."""
    problems: str | None = None
    """Train on the problems in this file (docs/guide/rl-from-a-checkpoint.md). Unset: those of this run's curation.
    Which of them enter the pool, `[rl_pool]` says."""
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
    tis_level: Literal["token", "sequence", "none"] = "token"
    """Whose probability the weight compares: a token's, or a whole rollout's; `none`: all weights are 1. Not stated by
    the paper. Our choice."""
    positive_ce: NonNegative = 0.1
    """Coefficient of the cross-entropy on positive samples, those that are right and not found ill-formed; not given by
    the paper (VAPO's value)."""
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"] = "token-mean"
    """Not stated by the paper; token-mean is DAPO's. "seq-mean-token-sum-norm" (Dr. GRPO's) divides the sum over a
    rollout's tokens by `max_tokens`."""
    kl_coef: NonNegative = 0.0
    """Coefficient of the KL divergence from the SFT model (k3 estimator), which is loaded beside the model in training.
    0, the paper's: no such term, and no second model."""
    mask_truncated: bool = False
    """Leave rollouts that were cut off at `max_tokens`, or in a loop (`end_early`), out of the loss. Their rewards
    still count in the advantages of their group. Our choice: off."""
    overlong_buffer: Count = 0
    """Tokens before `max_tokens` over which a penalty for length rises from 0 to `overlong_penalty`; 0: none (DAPO's
    soft overlong punishment, arXiv 2503.14476, with 4096 of 20480 tokens there)."""
    overlong_penalty: NonNegative = 1.0
    """Subtracted from the reward of a rollout of `max_tokens` tokens where there is an `overlong_buffer`; DAPO's
    value."""
    normalise_std: bool = True
    """Divide advantages by the group's standard deviation, as printed in the paper."""
    deviation: Literal["sample", "population"] = "sample"
    """Which standard deviation: with G - 1 in the denominator, as in verl, which the paper trained with, or with G. The
    paper does not say."""
    rewards: dict[str, FiniteFloat] = DEFAULT_REWARDS
    """Weight of each part of the reward, which is their weighted sum: `correct`, what the verifier says; `format`, -1
    for an answer that misses one of `format_conditions` (the weight is our choice); and parts that a plugin registers.
    Parts that are not named here keep these weights; 0 turns one off. Without another part than `correct`, the format
    is not looked at."""
    format_conditions: list[Literal["well_formed", "coherent", "one_script"]] = [
        "well_formed",
        "coherent",
        "one_script",
    ]
    """`<think> ... </think> answer`, no loops, no mixed languages (section 3.4; the detectors are our choice)."""
    max_tests: Count = 0
    """Tests of a code problem that a reward runs, in RL and its pool: a random sample, the same for every answer to the
    problem; 0: all. The paper samples and gives no number; a problem's own `max_tests` comes first."""
    partial_credit: bool = False
    """Reward for code: the share of tests that pass, in place of all or nothing, which is the paper's. RL and its pool
    only; a problem's own `partial_credit` comes first."""
    compute_dtype: ComputeDtype = "stored"
    """What the forward and backward passes run in, as in [sft], and the native engine's sampling with them."""
    lookahead: Count = 0
    """Steps that rollouts may be ahead of the training: the batch of step t is sampled with the weights of step t -
    lookahead, while earlier ones are trained on. Saves time where engines have processors of their own
    (`cluster.backend`), and changes nothing but the order of the work elsewhere. The paper's: 0."""
    in_flight: bool = False
    """Give engines of a Ray cluster the weights of each step at once, in the middle of the rollouts that `lookahead`
    has them sample, instead of between two batches: fresher tokens, and a run that is no function of its recipe any
    more (docs/guide/parallel.md#weights-in-flight). Our choice; the paper does not say."""
    partial_tokens: Count = 0
    """Most tokens that a rollout samples in one step: a longer one waits with what it has, and goes on in the next
    with the weights of then (docs/guide/rl-partial-rollouts.md). 0, the paper's: each goes on to its end."""
    max_staleness: Count = 0
    """Steps that the weights which sampled a rollout's first token may be behind those that it trains: one that would
    wait for longer is sampled to its end, however long it is. 0: no limit but that of `max_tokens`. Our choice."""
    journal: bool = True
    """Keep what was sampled since the last checkpoint on disk (rl/journal), so that `--resume` replays it instead of
    sampling again. Of 2,048 rollouts with 20,000 tokens: 0.5 GB a step. Needed by `lookahead`. Our choice."""
    max_mismatch_kl: NonNegative = 1.0
    """Nats a token by which the sampled distribution may be apart from the trainer's (`mismatch_kl` in the metrics):
    more is said, and ends the run after 5 steps in a row. 0: no limit. Our choice."""
    updates_per_batch: Positive = 1
    """Optimiser steps per rollout batch. 1 is on-policy: PPO batch = batch in the paper."""
    micro_batch_tokens: Positive = 16384
    """Tokens per forward pass; the loss does not depend on it."""
    backfill: BackfillSection = BackfillSection()
    curriculum: CurriculumSection = CurriculumSection()
    end_early: EndEarlySection = EndEarlySection()
    checkpoint_every: Positive = 10
    """Steps between checkpoints to resume from."""
    keep_checkpoints: Positive = 2
    """Checkpoints that are kept, the newest ones. Our choice."""
    time_limit_s: PositiveFloat | None = None
    """Seconds after which an attempt saves a checkpoint and ends with exit code 75, as it does on SIGTERM; `--resume`
    goes on. Unset: no limit."""
    max_idle_steps: Count = 50
    """Steps in a row that change no weight (no group whose rewards differ, or a gradient that is not finite) that end
    the run with an error. One with none but these, or whose weights are not finite at its end, writes no model. 0:
    neither is looked at. Our choice."""

    @model_validator(mode="after")
    def _journal_of_rollouts_ahead(self) -> RLSection:
        if self.lookahead and not self.journal:
            raise ValueError("lookahead needs journal = true: what was sampled ahead cannot be sampled again")
        if self.in_flight and not self.lookahead:
            raise ValueError("in_flight has no rollouts to reach while nothing is sampled ahead; set lookahead, too")
        return self

    @model_validator(mode="after")
    def _room_to_wait(self) -> RLSection:
        if self.max_staleness and not self.partial_tokens:
            raise ValueError("max_staleness is a limit of rollouts that take several steps; set partial_tokens, too")
        if 0 < self.max_staleness <= self.lookahead:
            raise ValueError(
                f"with lookahead = {self.lookahead} no rollout of max_staleness = {self.max_staleness} can wait for a "
                "step; raise max_staleness above lookahead"
            )
        return self

    @model_validator(mode="after")
    def _groups_around_their_mean(self) -> RLSection:
        least, most = self.curriculum.min_group, self.curriculum.max_group
        if self.curriculum.shares and not least <= self.num_generations <= most:
            raise ValueError(
                f"num_generations = {self.num_generations} is not between curriculum.min_group = {least} and "
                f"curriculum.max_group = {most}, which share out as many a problem on average"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_algorithm(cls, data: Any) -> Any:
        algorithm = data.get("algorithm") if isinstance(data, dict) else None
        return {**ALGORITHM_DEFAULTS[algorithm], **data} if algorithm in [*ALGORITHM_DEFAULTS] else data

    @model_validator(mode="before")
    @classmethod
    def _add_default_rewards(cls, data: Any) -> Any:
        """Recipes of earlier versions, as they lie in run directories, have the weight of `format` in a key of its
        own."""
        if not isinstance(data, dict) or not isinstance(data.get("rewards", {}), dict):
            return data
        data = dict(data)
        earlier = {"format": data.pop("format_penalty")} if "format_penalty" in data else {}
        return {**data, "rewards": {**DEFAULT_REWARDS, **earlier, **data.get("rewards", {})}}

    @model_validator(mode="after")
    def _buffer_within_rollout(self) -> RLSection:
        if self.overlong_buffer > self.max_tokens:
            raise ValueError(f"overlong_buffer = {self.overlong_buffer} exceeds max_tokens = {self.max_tokens}")
        return self


class LoraSection(Section):
    """Low-rank adapters in place of all weights, in SFT and RL (arXiv 2106.09685). A stage's `model/` has them merged
    in, its `adapter/` has PEFT's format. The paper trains all weights. Each process holds the model whole."""

    rank: Count = 0
    """Of the adapters; 0: none, all weights are trained."""
    alpha: PositiveFloat = 32.0
    """B A counts alpha / rank times. PEFT's name is `lora_alpha`. Our choice."""
    targets: list[str] = []
    """Layers that get one, by the last part of their names, as in ["q_proj", "in_proj"]. Empty: every linear layer
    between embedding and head. Our choice."""


class ParallelSection(Section):
    """How the processes that `torchrun` starts share SFT and RL; one process needs `checkpoint`, `offload` and
    `async_checkpoint` alone. May change within a run."""

    context: Positive = 1
    """Processes that share one packed row (in RL: one micro-batch), by tokens and heads; must divide the query heads
    and the SSM heads."""
    data: Annotated[int, Field(ge=-1)] = -1
    """Groups of `context` processes, each with rows of its own; -1: as many as there are processes for."""
    shard: bool = False
    """Keep 1/n of weights, gradients and optimiser state on each of n processes (FSDP2). In RL an engine in the process
    has a whole copy beside it, in `rl.compute_dtype`. Our choice: off, for what fits is faster replicated."""
    replicate: Positive = 1
    """With `shard`: so many copies of the shards (HSDP), each on neighbouring processes. Weights are then gathered
    among n / replicate processes, such as those of a node, and only gradients travel between copies. 1: each process
    has another shard."""
    checkpoint: bool = False
    """Activation checkpointing: keep of each layer only its input and compute the rest again in the backward pass, to
    the same bits, for about a third more time. Our choice: off, for what fits is faster kept."""
    offload: bool = False
    """With `checkpoint`: keep the inputs of layers in the memory of the processor, from where the backward pass fetches
    them; for rows so long that these inputs are what does not fit. Our choice: off, since each is copied twice."""
    async_checkpoint: bool = False
    """Write checkpoints to resume from in a thread while training goes on, from a copy in the memory of the processor
    (of each process's share: weights and optimiser, 12 bytes a parameter with AdamW). One at a time: the next waits for
    it, and so does the end. Adapters are written at once. Our choice: off, which takes no such memory."""
    timeout_s: PositiveFloat = 3600.0
    """Seconds that a process waits for the others in one exchange; in RL one may still be sampling. Our choice."""

    @model_validator(mode="after")
    def _some_data(self) -> ParallelSection:
        if self.data == 0:
            raise ValueError("data must be -1 or at least 1")
        if self.replicate > 1 and not self.shard:
            raise ValueError(f"replicate = {self.replicate} makes copies of shards, and there are none; set shard, too")
        if self.offload and not self.checkpoint:
            raise ValueError("offload moves what checkpoint keeps, and that is off; set checkpoint, too")
        return self


class ClusterSection(Section):
    """Where RL's trainers and engines run (docs/guide/parallel.md). May change within a run."""

    backend: Literal["processes", "ray"] = "processes"
    """`processes`: in this process, or in those that `torchrun` starts, each of which trains and samples. `ray`: in
    actors of a Ray cluster, which `h1r rl` drives; needs the extra `ray`."""
    address: str | None = None
    """ray: of the cluster to join. Unset: the one that this process is in, or that RAY_ADDRESS names, or else one that
    is started on this machine and ended with the run."""
    trainers: Positive = 1
    """ray: ranks that train together, as `[parallel]` says."""
    engines: Positive = 1
    """ray: engines that sample, each of `engine.kind`."""
    trainer_gpus: NonNegative | None = None
    """ray: cards of a trainer; a fraction shares one with others. Unset: 1 where the cluster has cards."""
    engine_gpus: NonNegative | None = None
    """ray: cards of an engine, as `trainer_gpus`."""
    start_limit_s: PositiveFloat = 600.0
    """ray: seconds that trainers and engines have to start, and an engine to load its model. Our choice."""
