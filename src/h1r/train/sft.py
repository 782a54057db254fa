"""Supervised fine-tuning on packed samples (arXiv 2601.02346, section 2, Table 1).

    documents (tokens with loss mask) -> rows of seq_len tokens, packed -> batches of rows -> weighted cross-entropy

Documents are those of packed shards, of a file, of samples.jsonl (`documents.py`), or of several of these
(`mixture.py`), packed anew for every epoch.

A batch's loss is sum_t w_t nll_t / (tokens with loss in the batch): every token of the batch counts the same whatever
micro-batch or process it fell into, times its sample's difficulty weight. The order of documents is a function of
(seed, epoch), so the data position is one number and a resumed run repeats the unbroken one bit for bit.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from h1r.common.files import contents, read_json, write_json
from h1r.common.progress import progress
from h1r.config import Recipe, SFTSection
from h1r.data.file_kinds import conversations_file
from h1r.data.own import holds_turns, own_conversations
from h1r.data.packing import pack
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.models import CausalLM
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.trackers.base import NoTracker, Tracker
from h1r.run.trackers.open import open_trackers
from h1r.train.checkpoint import keep_defaults, restore
from h1r.train.documents import Document, Documents, PackedDocuments, documents_of, read_samples
from h1r.train.idle import IdleSteps
from h1r.train.linear_logprobs import head_logprobs
from h1r.train.memory import keep_freed_memory
from h1r.train.mixture import Joined, Passes, interleaved, labels_of
from h1r.train.optim import linear_schedule, make_optimizer, optimizer_step
from h1r.train.overlong import without_overlong
from h1r.train.parallel.balance import document_costs, spread
from h1r.train.parallel.gradients import Trained, call, computing_model, weights_of
from h1r.train.parallel.launch import join
from h1r.train.parallel.world import ALONE, World
from h1r.train.plan.utilisation import Utilisation
from h1r.train.saver import Saver
from h1r.train.start import (
    check_same_tokenizer,
    compute_dtype_of,
    data_directory,
    own_data,
    saved_tokenizer,
    start,
)
from h1r.train.stopping import Stopping
from h1r.train.validation import Validation, kept_out, without_gradients

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def sft(recipe: Recipe, run: Run, resume: bool = False) -> dict[str, Any]:
    """Trains on what was curated and writes sft/metrics.jsonl, sft/checkpoints and sft/model.

    Builds the parts of `train_sft` from the recipe and the run directory. resume: go on from the newest checkpoint.
    Returns steps, documents and the last loss.
    """
    world = join("sft", recipe, run, resume)
    with run.timed("sft") if world.main else nullcontext():
        directory = run.stage("sft")
        with world.agreed():
            tokenizer = saved_tokenizer(recipe, run)
            documents = _documents(recipe, run, tokenizer, world)
            model, wrapped = start(recipe, run, world, compute_dtype_of(recipe.sft))
            keep_freed_memory(model.device)
            tracker: Tracker = NoTracker()
            if world.main:
                tracker = open_trackers(recipe, run, "sft", Checkpoints(directory).step_to_resume(resume))
        try:
            summary = train_sft(
                model,
                documents,
                recipe.sft,
                tracker,
                tokenizer=tokenizer,
                directory=directory,
                seed=recipe.seed,
                wrapped=wrapped,
                world=world,
                resume=resume,
            )
            keep_defaults(directory / "model", recipe, world, turns=_has_turns(recipe))
            return summary
        finally:
            tracker.close()


def train_sft(
    model: CausalLM,
    documents: Documents,
    section: SFTSection,
    tracker: Tracker,
    *,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    seed: int = 0,
    wrapped: Trained | None = None,
    world: World = ALONE,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains `model` in place on `documents` for `section.epochs` passes.

    tracker: gets the numbers of every step. tokenizer: is saved with the model. directory: gets checkpoints/, model/,
    and the number of steps as steps.json. seed: of the order of documents. wrapped: what the forward pass is called
    through, where that is not the model itself. resume: go on from the newest checkpoint in `directory`.

    Returns {"steps", "documents", "loss"}: their numbers, and the loss of the last step in nats per token. Raises
    `StoppedEarlyError` when it was asked to end, and has saved where it is.
    """
    checkpoints = Checkpoints(directory, section.keep_checkpoints)
    step, state = world.told(checkpoints.step_to_resume(resume)), {}
    with world.agreed():
        trained, held_out = kept_out(documents, section.validation.documents, seed)
        batches = Batches(trained, section, seed)
        if batches.passes is not None and world.main:
            batches.passes.told(section.mixture)
        forward = model if wrapped is None else wrapped
        optimizer = make_optimizer(forward, section.optimizer)
        if step:
            state = restore(checkpoints.at(step), forward, optimizer)
        weights = weights_of(forward)
        utilisation = Utilisation(computing_model(forward), world.size)
        idle = IdleSteps("sft", section.max_idle_steps, weights, state.get("idle", (0, 0)))
    validation = Validation(
        section.validation, lambda: validation_loss(forward, held_out, section, world), directory, world,
        state.get("best"),
    )  # fmt: skip
    saver = Saver(checkpoints, tokenizer, world)
    total, loss, labels = batches.total_steps, math.nan, labels_of(section.mixture)
    if world.main:
        write_json(directory / "steps.json", {"total": total})
    with progress("SFT", total=total, unit="step") as bar, Stopping(section.time_limit_s, world) as stopping:
        bar.start_at(step)
        while step < total:
            began = time.monotonic()
            rows = batches.rows_of(step)
            loss, tokens, of_parts = accumulate_gradients(
                forward, trained, rows, section.micro_batch_size, world, len(section.mixture)
            )
            factor = linear_schedule(step, int(section.warmup_ratio * total), total, section.min_lr_ratio)
            norm, stepped = optimizer_step(weights, optimizer, section.optimizer, factor)
            seconds = time.monotonic() - began
            values: dict[str, float] = {
                "loss": loss,
                **{f"loss/{label}": one for label, one in zip(labels, of_parts, strict=True) if not math.isnan(one)},
                "learning_rate": section.optimizer.learning_rate * factor,
                "grad_norm": norm,
                "skipped": int(not stepped),
                "tokens": tokens,
                "tokens_per_s": round(tokens / seconds, 1),
                **utilisation.of([trained[index].length for row in rows for index in row], seconds),
            }
            values |= validation.after(step + 1, total, forward, tokenizer)
            tracker.log(step, values)
            step += 1
            bar.advance(1, loss=loss)
            idle.add(None if stepped else "its gradient was not finite")
            stop = stopping.why()
            if step < total and (stop or step % section.checkpoint_every == 0):
                state = {"step": step, "idle": idle.counts(), "best": validation.best}
                saver.save(step, forward, optimizer, state, last=bool(stop))
            if step < total and stop:
                raise stopping.ended(f"sft ends at step {step} of {total}, since {stop}; --resume goes on from there")
    saver.settle()
    with world.agreed():
        idle.check_end(total, weights)
    validation.publish(forward, tokenizer)
    return {"steps": total, "documents": len(trained), "loss": loss, **validation.summary}


def _documents(recipe: Recipe, run: Run, tokenizer: PreTrainedTokenizerFast, world: World) -> Documents:
    """The documents that the recipe names: of a file, of packed shards, of samples.jsonl, or of a mixture."""
    section = recipe.sft
    documents: Documents
    if section.mixture:
        documents, fingerprint = _mixed(recipe, tokenizer)
        _same_data(run, fingerprint, "those of sft.mixture", world)
    elif file := own_data(recipe):
        documents = _of_file(recipe, file, tokenizer, section.columns)
        _same_data(run, [[contents(file)]], str(file), world)
    else:
        packed = data_directory(recipe, run) / "packed"
        if not section.data and not packed.is_dir():
            curated = run.need("curate/samples.jsonl", "curate")
            documents = read_samples(curated, tokenizer, None, section.seq_len)
        else:
            documents = shards = PackedDocuments(packed, section.seq_len)
            _same_data(run, shards.fingerprint(), f"the shards in {packed}", world)
    return without_overlong(documents, section, tokenizer, world.main)


def _has_turns(recipe: Recipe) -> bool:
    """Whether a file of conversations that was trained on has some of several turns."""
    files = [(own_data(recipe), recipe.sft.columns)]
    files += [(conversations_file(part.data), part.columns) for part in recipe.sft.mixture]
    return any(holds_turns(file, columns) for file, columns in files if file)


def _of_file(
    recipe: Recipe, file: Path, tokenizer: PreTrainedTokenizerFast, columns: dict[str, str], source: int = 0
) -> list[Document]:
    samples = own_conversations(file, columns, recipe.curate.loss)
    return documents_of(samples, file, tokenizer, recipe.sft.seq_len, source=source)


def _mixed(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> tuple[Joined, list[list[Any]]]:
    """The documents of a mixture, and what tells them from others. `UserError` for data of another tokenizer."""
    parts: list[Documents] = []
    fingerprint: list[list[Any]] = []
    for source, part in enumerate(recipe.sft.mixture):
        if file := conversations_file(part.data):
            parts.append(_of_file(recipe, file, tokenizer, part.columns, source))
            fingerprint.append([contents(file)])
            continue
        check_same_tokenizer(Path(part.data) / "tokenizer", tokenizer)
        shards = PackedDocuments(Path(part.data) / "packed", recipe.sft.seq_len, source)
        parts.append(shards)
        fingerprint += shards.fingerprint()
    return Joined(parts), fingerprint


def _same_data(run: Run, fingerprint: list[list[Any]], named: str, world: World) -> None:
    """Keeps what tells the data of a run from others; `UserError` for other data than a run with checkpoints, or a
    model, began with."""
    stage = run.path / "sft"
    known, learnt = stage / "data.json", (stage / "model").is_dir() or Checkpoints(stage).latest() is not None
    if learnt and known.exists() and read_json(known) != fingerprint:
        raise UserError(
            f"the data ({named}) are not those that {run.path} began with; bring them back, or give another --out"
        )
    if world.main:
        write_json(known, fingerprint)


class Batches:
    """Which rows (lists of document indices) each optimiser step sees. A function of (documents, section, seed)."""

    def __init__(self, documents: Documents, section: SFTSection, seed: int) -> None:
        self._lengths = [document.length for document in documents]
        self._section, self._seed = section, seed
        self.passes: Passes | None = None
        if section.mixture:
            sources = [document.source for document in documents]
            self.passes = Passes(self._lengths, sources, section.mixture, seed)
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
            if self.passes is None:
                orders = [list(range(len(self._lengths)))]
                rng.shuffle(orders[0])
            else:
                orders = self.passes.orders(epoch)
            parts = [pack(self._lengths, order, self._section.seq_len) for order in orders]
            while sum(map(len, parts)) < at_least:
                # This order packs tighter than the first, but no step may go without a row.
                rows = max(parts, key=lambda rows: max(map(len, rows)))
                rows.append([max(rows, key=len).pop()])
            for rows in parts:
                rng.shuffle(rows)
            self._epoch_rows = {epoch: interleaved(parts)}
        return self._epoch_rows[epoch]


def accumulate_gradients(
    model: Trained,
    documents: Documents,
    rows: Sequence[Sequence[int]],
    micro_batch_size: int,
    world: World = ALONE,
    parts: int = 0,
) -> tuple[float, int, list[float]]:
    """Adds the batch loss's gradient to the parameters; returns the loss, the tokens run through the model, and the
    loss of each of the `parts` of a mixture: sum_t w_t nll_t / (its tokens with loss in the batch), nats per token; not
    a number where it has none.

    Every process of `world` gets all rows, reads and runs its share, and ends with the same gradient and losses.
    """
    chosen = [documents[index] for row in rows for index in row]
    valid = sum(document.targets for document in chosen)
    total, sums = 0.0, torch.zeros(parts, dtype=torch.float64)
    for loss, of_parts in _losses(model, documents, rows, micro_batch_size, world, parts):
        mean = loss / valid
        mean.backward()
        total += mean.item()
        sums += of_parts.cpu()
    world.sync_gradients(model)
    total, *found = world.sums([total, *sums.tolist()])
    counts = [0] * parts
    for document in chosen if parts else ():
        counts[document.source] += document.targets
    each = [one / count if count else math.nan for one, count in zip(found, counts, strict=True)]
    return total, sum(document.length for document in chosen), each


def validation_loss(model: Trained, documents: Documents, section: SFTSection, world: World = ALONE) -> float:
    """The loss on documents that are not trained on, in nats per token with loss, the same on every process."""
    lengths = [document.length for document in documents]
    rows = pack(lengths, list(range(len(lengths))), section.seq_len)
    losses = _losses(model, documents, rows, section.micro_batch_size, world)
    targets = sum(document.targets for document in documents)
    return world.sum(without_gradients(model, lambda: [loss.item() for loss, _ in losses])) / targets


def _losses(
    model: Trained,
    documents: Documents,
    rows: Sequence[Sequence[int]],
    micro_batch_size: int,
    world: World,
    parts: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The summed losses of each micro-batch of this process (`weighted_cross_entropy`), and of the passes that it runs
    along without one."""
    shares = _shares(model, documents, rows, world)
    mine = [rows[index] for index in shares[world.data_rank]]
    for at in range(0, len(mine), micro_batch_size):
        chosen = [documents[index] for row in mine[at : at + micro_batch_size] for index in row]
        yield call(model, weighted_cross_entropy, chosen, world, parts)
    for _ in range(world.idle_rounds([-(-len(share) // micro_batch_size) for share in shares])):
        shortest = min(documents[rows[0][0]], documents[rows[-1][-1]], key=lambda one: one.length).ids
        silent = Document(shortest, [0] * len(shortest), 0.0)
        yield call(model, weighted_cross_entropy, [silent], world, parts)


def _shares(model: Trained, documents: Documents, rows: Sequence[Sequence[int]], world: World) -> list[list[int]]:
    """Which rows each row of the grid runs, as even in cost and number as can be."""
    if world.data_degree == 1:
        return [list(range(len(rows)))]
    each = iter(document_costs(computing_model(model), [documents[index].length for row in rows for index in row]))
    costs = [sum(itertools.islice(each, len(row))) for row in rows]
    return spread(costs, world.data_degree, limit=-(-len(rows) // world.data_degree))


def weighted_cross_entropy(
    model: CausalLM, documents: Documents, world: World = ALONE, parts: int = 0
) -> tuple[Tensor, Tensor]:
    """sum_t weight_t * -log pi(token_t | tokens before it in its document), over the tokens with loss that this
    process predicts: all of them, or those after its share of the flat tokens. Also [parts] float64, the same of the
    documents of each part of a mixture, without a gradient."""
    device = model.device
    layout = Layout.of([document.length for document in documents], device)
    ids = [token for document in documents for token in document.ids]
    if not 0 <= min(ids) <= max(ids) < model.config.vocab_size:
        raise UserError(
            f"a document holds token ids from {min(ids)} to {max(ids)}, and the model has {model.config.vocab_size}; "
            "curate the data with the model's own tokenizer"
        )
    ids_T = torch.tensor(ids, device=device)
    weight_T = torch.tensor(
        [document.weight * flag for document in documents for flag in (0, *document.loss[1:])], device=device
    )
    mine = world.share(layout.num_tokens)
    # A token is predicted by the rank that holds the token before it, which may not be its own.
    target = weight_T.nonzero().squeeze(-1)
    target = target[(target > mine.start) & (target <= mine.stop)]
    hidden = model.model(ids_T[mine], layout)[target - 1 - mine.start]
    weighted = weight_T[target] * head_logprobs(model, hidden, ids_T[target])[0]
    of_parts = torch.zeros(parts, dtype=torch.float64, device=device)
    if parts:
        lengths = torch.tensor([document.length for document in documents], device=device)
        source_T = torch.tensor([document.source for document in documents], device=device).repeat_interleave(lengths)
        of_parts.index_add_(0, source_T[target], -weighted.detach().double())
    return -weighted.sum(), of_parts
