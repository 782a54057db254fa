"""Supervised fine-tuning on packed samples (arXiv 2601.02346, section 2, Table 1).

    samples -> tokens with loss mask -> rows of seq_len tokens, packed -> batches of rows -> weighted cross-entropy

A batch's loss is sum_t w_t nll_t / (tokens with loss in the batch): every token of the batch counts the same whatever
micro-batch or process it fell into, times its sample's difficulty weight. The order of documents is a function of
(seed, epoch), so the data position is one number and a resumed run repeats the unbroken one bit for bit.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from h1r.config import Recipe, SFTSection
from h1r.data.chat import Encoded, encode_samples
from h1r.data.packing import pack
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.model import HybridForCausalLM
from h1r.model.layout import Layout
from h1r.progress import progress
from h1r.records import Sample, read_jsonl
from h1r.run import Checkpoints, Metrics, Run
from h1r.train.checkpoint import publish, restore, save_checkpoint
from h1r.train.losses import token_logprobs
from h1r.train.optim import linear_schedule, make_optimizer, optimizer_step
from h1r.train.parallel.gradients import Sharded, call
from h1r.train.parallel.launch import join
from h1r.train.parallel.world import ALONE, World
from h1r.train.start import start


@dataclass(frozen=True)
class Document:
    """One sample as tokens: `loss[i]` says whether token i is predicted with loss, `weight` scales its losses."""

    ids: list[int]
    loss: list[int]
    weight: float


def sft(recipe: Recipe, run: Run, resume: bool = False) -> dict[str, Any]:
    """Trains on curate/samples.jsonl and writes sft/metrics.jsonl, sft/checkpoints and sft/model.

    resume: go on from the newest checkpoint. Returns steps, tokens and the last loss.
    """
    world = join("sft", recipe, run, resume)
    with run.timed("sft") if world.main else nullcontext():
        stage, section = run.stage("sft"), recipe.sft
        with world.agreed():
            tokenizer = load_tokenizer(run.need("curate/tokenizer", "curate"))
            documents = _documents(recipe, run, tokenizer)
            batches = Batches(documents, section, recipe.seed)
            model, trained = start(recipe, run, world, _compute_dtype(recipe, world))
            optimizer = make_optimizer(model, section.optimizer)
            checkpoints = Checkpoints(stage)
            step = 0
            if resume and (found := checkpoints.latest()):
                step = restore(found[1], model, optimizer)["step"]
        metrics = Metrics(stage / "metrics.jsonl", step) if world.main else None
        total, loss = batches.total_steps, math.nan
        with progress("SFT", total=total, unit="step") as bar:
            bar.start_at(step)
            while step < total:
                began = time.monotonic()
                rows = batches.rows_of(step)
                loss, tokens = accumulate_gradients(trained, documents, rows, section.micro_batch_size, world)
                factor = linear_schedule(step, int(section.warmup_ratio * total), total, section.min_lr_ratio)
                norm, stepped = optimizer_step(model, optimizer, section.optimizer, factor)
                seconds = time.monotonic() - began
                step += 1
                bar.advance(1, loss=loss)
                if metrics is not None:
                    metrics.log(
                        step - 1,
                        loss=loss,
                        learning_rate=section.optimizer.learning_rate * factor,
                        grad_norm=norm,
                        skipped=int(not stepped),
                        tokens=tokens,
                        tokens_per_s=round(tokens / seconds, 1),
                    )
                if step % section.checkpoint_every == 0 and step < total:
                    save_checkpoint(checkpoints, step, model, optimizer, tokenizer, {"step": step}, world)
        if metrics is not None:
            metrics.close()
        publish(stage, model, tokenizer, world)
    return {"steps": total, "documents": len(documents), "loss": loss}


def _compute_dtype(recipe: Recipe, world: World) -> torch.dtype | None:
    if recipe.sft.compute_dtype == "stored":
        return None
    if world.mesh is None:
        raise UserError(
            f"sft.compute_dtype = '{recipe.sft.compute_dtype}' keeps fp32 weights in shards, and these are not "
            "sharded; add --set parallel.shard=true and start with torchrun, or leave it out"
        )
    return torch.bfloat16


def _documents(recipe: Recipe, run: Run, tokenizer: PreTrainedTokenizerFast) -> list[Document]:
    samples = list(read_jsonl(run.need("curate/samples.jsonl", "curate"), Sample))
    if not samples:
        raise UserError(f"{run.path}/curate/samples.jsonl is empty; loosen the recipe's [curate] rules")
    encoded = encode_samples(tokenizer, samples, recipe.chat.system_prompt)
    documents = to_documents(encoded, [sample.weight for sample in samples], recipe.sft.seq_len)
    if not documents:
        raise UserError(
            f"sft.seq_len = {recipe.sft.seq_len} cuts off every answer in {run.path}/curate/samples.jsonl; raise it"
        )
    return documents


def to_documents(encoded: Sequence[Encoded], weights: Sequence[float], seq_len: int) -> list[Document]:
    """Samples as documents, right-trimmed to `seq_len`; those with no token left to predict are left out."""
    documents = []
    for one, weight in zip(encoded, weights, strict=True):
        document = Document(one.token_ids[:seq_len], one.loss_mask[:seq_len], weight)
        if any(document.loss[1:]):
            documents.append(document)
    return documents


class Batches:
    """Which rows (lists of document indices) each optimiser step sees. A function of (documents, section, seed)."""

    def __init__(self, documents: Sequence[Document], section: SFTSection, seed: int) -> None:
        self._lengths = [len(document.ids) for document in documents]
        self._section, self._seed = section, seed
        self._epoch_rows: dict[int, list[list[int]]] = {}
        self.steps_per_epoch = math.ceil(len(self._rows(0)) / section.batch_size)
        self.total_steps = max(1, round(section.epochs * self.steps_per_epoch))

    def rows_of(self, step: int) -> list[list[int]]:
        """The rows of one optimiser step; an epoch may pack into one batch more or less than the first did."""
        epoch, at = divmod(step, self.steps_per_epoch)
        rows = self._rows(epoch, at_least=self.steps_per_epoch)
        share = len(rows) / self.steps_per_epoch
        return rows[round(at * share) : round((at + 1) * share)]

    def _rows(self, epoch: int, at_least: int = 1) -> list[list[int]]:
        if epoch not in self._epoch_rows:
            rng = random.Random(f"sft {self._seed} {epoch}")
            order = list(range(len(self._lengths)))
            rng.shuffle(order)
            rows = pack(self._lengths, order, self._section.seq_len)
            while len(rows) < at_least:  # this order packs tighter than the first, but no step may go without a row
                rows.append([max(rows, key=len).pop()])
            rng.shuffle(rows)
            self._epoch_rows = {epoch: rows}
        return self._epoch_rows[epoch]


def accumulate_gradients(
    model: HybridForCausalLM | Sharded,
    documents: Sequence[Document],
    rows: Sequence[Sequence[int]],
    micro_batch_size: int,
    world: World = ALONE,
) -> tuple[float, int]:
    """Adds the batch loss's gradient to the parameters; returns (loss, tokens run through the model).

    Every process of `world` gets all rows, runs its share, and ends with the same gradient and loss.
    """
    valid = sum(sum(documents[index].loss[1:]) for row in rows for index in row)
    micro_batches = [rows[start : start + micro_batch_size] for start in range(0, len(rows), micro_batch_size)]
    total = 0.0
    for micro_batch in world.deal(micro_batches):
        chosen = [documents[index] for row in micro_batch for index in row]
        loss = call(model, weighted_cross_entropy, chosen, world) / valid
        loss.backward()
        total += loss.item()
    for _ in range(world.idle_rounds(micro_batches)):
        shortest = min(documents[rows[0][0]].ids, documents[rows[-1][-1]].ids, key=len)
        silent = Document(shortest, [0] * len(shortest), 0.0)
        call(model, weighted_cross_entropy, [silent], world).backward()
    world.sync_gradients(model)
    return world.sum(total), sum(len(documents[index].ids) for row in rows for index in row)


def weighted_cross_entropy(model: HybridForCausalLM, documents: Sequence[Document], world: World = ALONE) -> Tensor:
    """sum_t weight_t * -log pi(token_t | tokens before it in its document), over the tokens with loss that this
    process predicts: all of them, or those after its share of the flat tokens."""
    device = model.device
    layout = Layout.of([len(document.ids) for document in documents], device)
    ids_T = torch.tensor([token for document in documents for token in document.ids], device=device)
    weight_T = torch.tensor(
        [document.weight * flag for document in documents for flag in (0, *document.loss[1:])], device=device
    )
    mine = world.share(layout.num_tokens)
    # A token is predicted by the rank that holds the token before it, which may not be its own.
    target = weight_T.nonzero().squeeze(-1)
    target = target[(target > mine.start) & (target <= mine.stop)]
    hidden = model.model(ids_T[mine], layout)[target - 1 - mine.start]
    return -(weight_T[target] * token_logprobs(model.logits(hidden), ids_T[target], kernels=model.kernels)).sum()
