"""A plan of SFT or RL on given cards: memory a card, operations and time a step, whether it fits, and what would.

    weights       sharded: (4 weight + 4 gradient + 8 AdamW) / cards of a copy a parameter; whole: 16, and 2 for a
                  narrower copy; Muon keeps 4 for a matrix of the layers in place of 8, AdamW of 8 bits 2;
                  with adapters, what the model computes in, and its matrices twice
    adapters      of whole weights, as many bytes a parameter as those have without adapters
    gathered      sharded: two layers as they compute, what FSDP2 keeps whole (embedding, head), gradients on their way
    activations   of the longest micro-batch: what every layer keeps, or its input alone where it is computed twice, or
                  the inputs of two layers where they wait in the memory of the processor (`parallel.offload`)
    work          what the pass of one layer holds beside what it keeps, and the logits of a chunk with their gradients
    engine        of RL: the whole weights that an engine samples from, where it does not read those that are trained
    reference     of RL with a KL term: the model that it is held to
    cache         of RL, while it samples: keys, values and states of the sequences that are decoded together
    reserve       context of the driver and of exchanges, and memory between blocks: our choice, see `RESERVE`

Bytes that are kept are counted (`costs.py`), the others calculated from shapes. Time is the longer of computing, by
the cards that have the most sequences, at a share of the card's peak (`UTILISATION`), with the copies of what is
offloaded, which it waits for, and of exchanging weights and gradients, which FSDP2 hides behind it; the exchange of
heads between context-parallel processes is left out. Nothing
here has been held against a card yet.

RL samples and trains in turn on the same cards. What training holds is free while the native engine samples, whose
cache is as large as the room allows; vLLM keeps its share of the card (`engine.gpu_memory_utilization`) all the time.
On a Ray cluster (`[cluster]`) trainers and engines have cards of their own, of one kind.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from h1r.common.html import duration
from h1r.common.hub import local_directory
from h1r.common.prose import counted
from h1r.config import OptimizerSection, Recipe
from h1r.engine.native.memory import SHARE_OF_FREE
from h1r.errors import UserError
from h1r.models.checkpoint import read_config
from h1r.models.config import ModelConfig
from h1r.models.registry import family_of, preset, presets
from h1r.train.linear_logprobs import LOGITS_BYTES
from h1r.train.lora import adapted_matrices, check_whole_weights
from h1r.train.parallel.context import check_degree, degrees_allowed
from h1r.train.parallel.world import check_copies, degrees
from h1r.train.plan.cards import Card, Cards
from h1r.train.plan.costs import PassCosts, pass_costs
from h1r.train.start import compute_dtype_of

Stage = Literal["sft", "rl"]
RESERVE_BYTES = 2 * 10**9
RESERVE_SHARE = 0.05
"""Of the card's memory, for what lies unused between blocks."""
HOST_BANDWIDTH = 50e9
"""Bytes a second between a card and the memory of its processor, one way: PCIe 5.0 with 16 lanes moves 63e9, less what
its protocol takes. Our choice."""
UTILISATION = 0.4
"""Share of the peak that a step computes at, where nothing was measured. Our choice."""


@dataclass(frozen=True)
class Plan:
    """memory: bytes a card by part, while it trains. tokens: of a step, all cards together, at full rows or responses.
    flops: of a step. seconds: of a step, by what takes them, of which the longer bounds it. sampling: bytes by part,
    while it samples; empty for SFT. sequences: that are decoded together on a card."""

    stage: Stage
    cards: Cards
    parameters: int
    memory: dict[str, float]
    tokens: int
    flops: float
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    instead: dict[str, Any] = field(default_factory=dict)
    """Settings that fit, where these do not."""
    sampling: dict[str, float] = field(default_factory=dict)
    sequences: int = 0

    @property
    def needed(self) -> float:
        """Bytes a card."""
        return max(sum(self.memory.values()), sum(self.sampling.values()))

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.needed <= 1e9 * self.cards.card.gb

    @property
    def bound_by(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda part: self.seconds[part])

    def as_json(self) -> dict[str, Any]:
        """What is printed, with bytes, operations and seconds."""
        return {
            "stage": self.stage, "cards": self.cards.count, "card": self.cards.card.name, "parameters": self.parameters,
            "fits": self.fits, "memory_bytes": self.memory, "needed_bytes": self.needed,
            "card_bytes": 1e9 * self.cards.card.gb, "tokens_per_step": self.tokens, "flops_per_step": self.flops,
            "seconds_per_step": self.seconds, "bound_by": self.bound_by, "notes": self.notes, "instead": self.instead,
            "sampling_bytes": self.sampling, "sequences_decoded_together": self.sequences,
        }  # fmt: skip


def plan(recipe: Recipe, stage: Stage, cards: Cards, utilisation: float = UTILISATION) -> Plan:
    """Of a stage of the recipe. Raises `UserError` for a grid that does not fit the number of cards, and a context
    degree that the model cannot take."""
    if not 0 < utilisation <= 1:
        raise UserError(f"a utilisation of {utilisation} is no share of a card's peak; give one from 0 to 1")
    config = planned_config(recipe)
    found = _planned(recipe, config, stage, cards, utilisation)
    if found.fits:
        return found
    for changes in _alternatives(recipe, config, stage, cards):
        other = _planned(_changed(recipe, changes), config, stage, cards, utilisation)
        if other.fits:
            return dataclasses.replace(found, instead=changes)
    return found


def planned_config(recipe: Recipe) -> ModelConfig:
    """The geometry that the recipe trains: of its preset, of its checkpoint's directory, or, for a published checkpoint
    that is not here, of the preset that its name says. Raises `UserError` for another hub id."""
    section = recipe.model
    if section.checkpoint is None:
        assert section.preset is not None
        return preset(section.preset, **section.overrides)
    if directory := local_directory(section.checkpoint):
        return read_config(directory)
    name = section.checkpoint.rpartition("/")[2].lower()
    size = name.removeprefix("falcon-h1r-").removeprefix("falcon-h1-")
    if size != name or name.startswith("qwen3-"):
        known = [one for one in presets() if size == one or size.startswith(f"{one}-")]
        if known:
            return preset(max(known, key=len))
    raise UserError(
        f"the sizes of {section.checkpoint} are not known here; give a directory that holds its config.json, or plan "
        "with --set model.preset=NAME --set 'model.checkpoint=\"\"'"
    )


def _planned(recipe: Recipe, config: ModelConfig, stage: Stage, cards: Cards, utilisation: float) -> Plan:
    section = recipe.sft if stage == "sft" else recipe.rl
    trainers = _trainers(recipe, stage, cards)
    apart = trainers != cards
    data, context = degrees(recipe.parallel, trainers.count)
    check_degree(config, context)
    check_copies(recipe.parallel, trainers.count)
    shards = trainers.count // recipe.parallel.replicate
    narrow = compute_dtype_of(section)
    dtype = narrow or torch.float32
    longest, tokens, rows = _sizes(recipe, stage, data)
    costs = pass_costs(config, dtype, longest)
    held = rows / context
    optimizer = section.optimizer
    if recipe.lora.rank:
        trained, matrices = _adapted(recipe, config)
        weights = float(dtype.itemsize * (costs.parameters + matrices))
        kept = {"weights": weights, "adapters": trained * trained_bytes(optimizer, 1.0)}
    else:
        trained = costs.parameters
        share = trained_bytes(optimizer, 1 - costs.root / costs.parameters)
        kept = _weights(recipe, costs, shards, dtype.itemsize if narrow else 0, share)
    reserve = {"reserve": RESERVE_BYTES + RESERVE_SHARE * 1e9 * cards.card.gb}
    engine = _engine(recipe, costs, trainers, dtype.itemsize, apart) if stage == "rl" else {}
    beside = {part: size for part, size in engine.items() if not (apart and part == "engine")}
    memory = {
        **kept,
        **beside,
        **(_gathered(costs, dtype.itemsize) if recipe.parallel.shard else {}),
        "activations": _activations(recipe, costs, held),
        "work": _work(config, costs, held, dtype.itemsize),
        **reserve,
    }
    each = _passes(recipe, stage) * costs.flops
    sequences = tokens // longest
    busiest = math.ceil(sequences / data)
    rounds = math.ceil(busiest * longest / rows)
    seconds = {
        "computing": busiest * each / (context * utilisation * 1e12 * cards.card.tflops),
        "exchanging": _exchanging(recipe, stage, costs, trainers, dtype.itemsize, rounds, trained),
    }
    if recipe.parallel.offload:
        moved = 2 * costs.layers * costs.flows * busiest * longest / context
        seconds["computing"] += _updates(recipe, stage) * moved / HOST_BANDWIDTH
    made = Plan(stage, cards, costs.parameters, memory, tokens, sequences * each, seconds)
    if data > sequences:
        idle = counted((data - sequences) * context, "card")
        made.notes.append(
            f"{idle} of {trainers.count:,} have nothing to do: {counted(sequences, 'sequence')} a step and "
            f"{counted(context, 'card')} each; raise parallel.context or {stage}.batch_size."
        )
    if stage == "sft":
        return made
    sampling = {"engine": engine.get("engine", 0.0)} if apart else {**kept, **engine}
    return _with_sampling(recipe, config, made, {**sampling, **reserve}, dtype)


def _trainers(recipe: Recipe, stage: Stage, cards: Cards) -> Cards:
    """The cards that train. Raises `UserError` where the cards are not those of `[cluster]`."""
    cluster = recipe.cluster
    if stage != "rl" or cluster.backend != "ray":
        return cards
    if {cluster.trainer_gpus, cluster.engine_gpus} - {None, 1.0}:
        raise UserError("a plan knows whole cards; leave cluster.trainer_gpus and cluster.engine_gpus out of it")
    engines = 0 if recipe.engine.kind == "server" else cluster.engines
    if cluster.trainers + engines != cards.count:
        raise UserError(
            f"cluster.trainers = {cluster.trainers} and {counted(engines, 'engine')} take a card each, and --gpus "
            f"names {cards.count}; let them agree"
        )
    return dataclasses.replace(cards, count=cluster.trainers)


def _passes(recipe: Recipe, stage: Stage) -> int:
    """Forward passes in whose time a step computes; a backward pass takes two."""
    each = (4 if recipe.parallel.checkpoint else 3) * _updates(recipe, stage)
    return each if stage == "sft" else each + (recipe.rl.updates_per_batch > 1) + bool(recipe.rl.kl_coef)


def _updates(recipe: Recipe, stage: Stage) -> int:
    return 1 if stage == "sft" else recipe.rl.updates_per_batch


def _sizes(recipe: Recipe, stage: Stage, data: int) -> tuple[int, int, int]:
    """Tokens of the longest document, of a step, and of the largest micro-batch."""
    if stage == "sft":
        sft = recipe.sft
        rows = min(sft.micro_batch_size, math.ceil(sft.batch_size / data))
        return sft.seq_len, sft.batch_size * sft.seq_len, rows * sft.seq_len
    rl = recipe.rl
    return rl.max_tokens, rl.batch_size * rl.num_generations * rl.max_tokens, max(rl.max_tokens, rl.micro_batch_tokens)


def trained_bytes(section: OptimizerSection, hidden: float) -> float:
    """Bytes of a parameter that is trained, the mean of all: the weight, its gradient and what the optimiser keeps.
    hidden: the share of parameters that Muon steps where it is chosen, matrices of layers and adapters."""
    moments = {"adamw": 8.0, "adamw8bit": 2.0, "muon": 8.0 - 4.0 * hidden}  # Muon keeps a momentum alone
    return 8 + moments[section.kind]


def _weights(recipe: Recipe, costs: PassCosts, count: int, copy: int, each: float) -> dict[str, float]:
    """copy: bytes a parameter of what computes beside the weights; each: as `trained_bytes`."""
    if recipe.parallel.shard:
        return {"weights": each * costs.parameters / count}
    return {"weights": costs.parameters * (each + copy)}


def _adapted(recipe: Recipe, config: ModelConfig) -> tuple[int, int]:
    """Parameters of the adapters, and of the matrices that have them. `UserError` for shards, which adapters do not go
    with."""
    check_whole_weights(recipe)
    with torch.device("meta"):
        layer = family_of(config).model_class(config.replaced(num_hidden_layers=1))
    shapes = [weight.shape for weight in adapted_matrices(layer, recipe.lora).values()]
    layers = config.num_hidden_layers
    return layers * recipe.lora.rank * sum(map(sum, shapes)), layers * sum(map(math.prod, shapes))


def _gathered(costs: PassCosts, element: int) -> dict[str, float]:
    unit, root = costs.largest_unit, costs.root
    # A layer computes while the next one comes; a gradient lies in the computing type and in fp32 while it is summed.
    return {"gathered": element * (root + 2 * unit) + (element + 4) * max(root, unit)}


def _engine(recipe: Recipe, costs: PassCosts, cards: Cards, element: int, apart: bool) -> dict[str, float]:
    """What lies on a card beside the weights that are trained, whether it samples or trains; apart: the engine on cards
    of its own."""
    kind, shard = recipe.engine.kind, recipe.parallel.shard
    found: dict[str, float] = {}
    if kind == "vllm":
        found["engine"] = recipe.engine.gpu_memory_utilization * 1e9 * cards.card.gb
    elif (shard or apart) and kind != "server":
        found["engine"] = element * costs.parameters
    if recipe.rl.kl_coef:
        found["reference"] = costs.parameters * (4 * recipe.parallel.replicate / cards.count if shard else element)
    return found


def _activations(recipe: Recipe, costs: PassCosts, tokens: float) -> float:
    if recipe.parallel.checkpoint:
        waiting = min(2, costs.layers) if recipe.parallel.offload else costs.layers
        return tokens * (waiting * costs.flows + costs.kept)
    return tokens * costs.layers * costs.kept


def _work(config: ModelConfig, costs: PassCosts, tokens: float, element: int) -> float:
    layer = element * tokens * (3 * config.intermediate_size + 3 * config.hidden_size)
    logits = min(LOGITS_BYTES, 4 * tokens * config.vocab_size) * 2
    return layer + logits + (4 + element) * config.vocab_size * config.hidden_size


def _exchanging(
    recipe: Recipe, stage: Stage, costs: PassCosts, cards: Cards, element: int, rounds: int, trained: float
) -> float:
    """Seconds in which a card sends what it has to in a step: of shards in each of `rounds` passes, weights twice and
    gradients once among the cards of a copy, and the sums of its shard to the other copies; in RL weights once more for
    the engine; of whole weights the step's gradients, of `trained` parameters."""
    if not recipe.parallel.shard:
        return (cards.count - 1) / cards.count * trained * 2 * 4 / cards.bandwidth
    copies = recipe.parallel.replicate
    copy = dataclasses.replace(cards, count=cards.count // copies)
    among = rounds * (2 * element + 4) + (element if stage == "rl" else 0)
    across = rounds * 2 * 4 * (copies - 1) / copies / copy.count
    return costs.parameters * (among * (copy.count - 1) / copy.count / copy.bandwidth + across / cards.bandwidth)


def _with_sampling(recipe: Recipe, config: ModelConfig, made: Plan, held: dict[str, float], dtype: torch.dtype) -> Plan:
    """The plan with what a card holds while it samples. held: besides the cache."""
    longest, rl, engine = recipe.rl.max_tokens, recipe.rl, recipe.engine
    if engine.kind == "server":
        note = "sampling: on servers with cards of their own, which are not planned."
        return dataclasses.replace(made, notes=[*made.notes, note])
    each = family_of(config).model_class.cache_type.bytes_per_slot(config, longest, dtype)
    room = SHARE_OF_FREE * (1e9 * made.cards.card.gb - sum(held.values()))
    if engine.kind == "vllm":  # its cache lies within its share
        room = held["engine"] - dtype.itemsize * made.parameters
    engines = recipe.cluster.engines if recipe.cluster.backend == "ray" else made.cards.count
    drawn = math.ceil(rl.batch_size / engines) * rl.num_generations  # an engine gets whole groups
    sequences = max(1, min(int(room / each), engine.max_sequences, drawn))
    cache = sequences * each
    if engine.kind == "vllm":
        cache = max(0.0, cache - room)
    note = (
        f"sampling: a sequence of {longest:,} tokens keeps {gigabytes(each)}; a card draws {drawn:,} a step and "
        f"decodes {sequences:,} of that length together."
    )
    notes = [*made.notes, note]
    if engines > rl.batch_size:
        notes.append(
            f"{counted(engines - rl.batch_size, 'engine')} of {engines:,} sample nothing in a round of "
            f"{counted(rl.batch_size, 'group')}, each of which goes to one."
        )
    if recipe.cluster.backend == "ray":
        notes.append(f"{counted(recipe.cluster.trainers, 'card')} of these train, and {engines:,} sample.")
    return dataclasses.replace(made, sampling={**held, "cache": cache}, sequences=sequences, notes=notes)


def _alternatives(recipe: Recipe, config: ModelConfig, stage: Stage, cards: Cards) -> Iterator[dict[str, Any]]:
    """Changes of settings that need less memory, the cheapest first: what costs no time, then computing layers twice,
    then their inputs in the memory of the processor, then cutting rows."""
    now = recipe.parallel
    smaller: list[dict[str, Any]] = [{}]
    if stage == "sft" and recipe.sft.micro_batch_size > 1:
        smaller.append({"sft.micro_batch_size": 1})
    if stage == "rl" and recipe.rl.micro_batch_tokens > recipe.rl.max_tokens:
        smaller.append({"rl.micro_batch_tokens": recipe.rl.max_tokens})
    shards: list[dict[str, Any]] = [{}] if now.shard or cards.count == 1 else [{}, {"parallel.shard": True}]
    if now.replicate > 1:
        shards = [{}, {"parallel.replicate": 1}]
    twice: list[dict[str, Any]] = [{}] if now.checkpoint else [{}, {"parallel.checkpoint": True}]
    if not now.offload:
        twice.append({"parallel.checkpoint": True, "parallel.offload": True})
    trainers = _trainers(recipe, stage, cards).count
    larger = [n for n in degrees_allowed(config) if n > now.context and trainers % n == 0]
    contexts = [{}, *({"parallel.context": n, "parallel.data": -1} for n in larger)]
    engines: list[dict[str, Any]] = [{}]
    if stage == "rl" and recipe.engine.kind == "vllm":
        lower = [share for share in (0.6, 0.5, 0.4, 0.3, 0.2) if share < recipe.engine.gpu_memory_utilization]
        engines += [{"engine.gpu_memory_utilization": share} for share in lower]
    for context, again, engine, shard, rows in itertools.product(contexts, twice, engines, shards, smaller):
        if changes := {**rows, **shard, **engine, **again, **context}:
            yield changes


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    for key, value in changes.items():
        section, name = key.split(".")
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: value})})
    return recipe


def told(made: Plan, run: Sequence[str] = ()) -> list[str]:
    """The plan as lines of text. run: those of the whole run."""
    card, count = made.cards.card, made.cards.count
    lines = [
        f"{made.stage} of {made.parameters / 1e9:.2f}B parameters on {count} x {card.name}",
        "",
        *_table(made.memory, card),
        *(["", "while it samples", "", *_table(made.sampling, card)] if made.sampling else []),
        "",
        f"  {counted(made.tokens, 'token')} and {made.flops:.2e} operations a step at full length",
        f"  {duration(made.seconds[made.bound_by])} a step, bound by {made.bound_by} "
        f"({', '.join(f'{part} {duration(seconds)}' for part, seconds in made.seconds.items())}): "
        f"{counted(round(made.tokens / made.seconds[made.bound_by] / count), 'token')} a second and card",
        *(f"  {note}" for note in made.notes),
        *(f"  {line}" for line in run),
        "  Calculated, not measured: no card has been at hand.",
    ]
    if not made.fits:
        changes = " ".join(f"--set {key}={str(value).lower()}" for key, value in made.instead.items())
        lines += [
            "",
            f"This does not fit. {f'With {changes} it does.' if changes else 'No setting of this stage does.'}",
        ]
    return lines


def _table(parts: dict[str, float], card: Card) -> list[str]:
    total = f"{gigabytes(sum(parts.values())):>10} of {gigabytes(1e9 * card.gb)} a card"
    return [*(f"  {part:<12} {gigabytes(size):>10}" for part, size in parts.items()), f"  {'in all':<12} {total}"]


def gigabytes(size: float) -> str:
    """`12.3 GB`, of 10^9 bytes as cards are sold."""
    return f"{size / 1e9:,.1f} GB"
