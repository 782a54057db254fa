"""SFT: the loss against a loop over documents, the order of data, and runs that die and go on."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import (
    Killed,
    assert_same_stage,
    gap,
    gradients,
    gradients_of,
    metrics_of,
    random_ids,
    run_from,
    sequence_logprobs,
    tiny_model,
    train_sft_in,
    training_recipe,
)
from torch import Tensor

import warm
from h1r.config import SFTSection
from h1r.data.chat import Encoded, encode_samples
from h1r.data.packing import pack
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.models import load
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Sample, read_jsonl
from h1r.run.checkpoints import Checkpoints
from h1r.train.checkpoint import save_checkpoint
from h1r.train.documents import Document, read_samples, to_documents
from h1r.train.sft import Batches, accumulate_gradients, sft, validation_loss
from h1r.train.validation import kept_out

MODEL = tiny_model(seed=2)
SFT = {
    "epochs": 1,
    "batch_size": 2,
    "micro_batch_size": 1,
    "seq_len": 128,
    "checkpoint_every": 4,
    "optimizer": {"learning_rate": 5e-3},
}


def random_documents(seed: int, count: int) -> list[Document]:
    """Documents with loss on some tokens, some of them on their first, which nothing can predict."""
    rng = random.Random(seed)
    documents = []
    for _ in range(count):
        length = rng.randint(2, 12)
        loss = [rng.randint(0, 1) for _ in range(length)]
        loss[-1] = 1
        documents.append(Document(random_ids(rng, length), loss, rng.choice([0.5, 1.0, 1.5])))
    documents[0].loss[0] = 1
    return documents


def obvious_loss(model: HybridForCausalLM, documents: list[Document]) -> Tensor:
    """One document at a time, each from a forward pass of its own; the mean is over all tokens with loss."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for document in documents:
        for t, logprob in enumerate(sequence_logprobs(model, document.ids), 1):
            if document.loss[t]:
                total = total - document.weight * logprob
                count += 1
    return total / count


@pytest.mark.parametrize("seed", range(4))
def test_sft_loss_and_gradient_equal_the_loop_over_documents(seed: int) -> None:
    documents = random_documents(seed, 7)
    rows = [[3, 0], [1, 2, 5], [4], [6]]
    loss, tokens, _ = accumulate_gradients(MODEL, documents, rows, micro_batch_size=2)
    found = gradients(MODEL)
    expected = obvious_loss(MODEL, documents)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-10)
    assert gap(found, gradients_of(MODEL, expected)) < 1e-9
    assert tokens == sum(len(document.ids) for document in documents)


def test_sft_loss_does_not_depend_on_packing_or_micro_batches() -> None:
    documents = random_documents(9, 8)
    packings = [[[i] for i in range(8)], [[5, 1, 0], [2], [7, 6], [3, 4]], [[7, 6, 5, 4, 3, 2, 1, 0]]]
    results = []
    for rows in packings:
        for micro_batch_size in range(1, len(rows) + 1):
            loss, *_ = accumulate_gradients(MODEL, documents, rows, micro_batch_size)
            results.append((loss, gradients(MODEL)))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-10)
        assert gap(gradient, results[0][1]) < 1e-10


def test_a_head_in_chunks_gives_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large vocabulary has it."""
    documents = random_documents(7, 6)
    rows = [[0, 1, 2], [3, 4, 5]]
    loss, *_ = accumulate_gradients(MODEL, documents, rows, micro_batch_size=2)
    whole = gradients(MODEL)
    monkeypatch.setattr("h1r.train.linear_logprobs.LOGITS_BYTES", 4 * MODEL.config.vocab_size * 3)
    with mock.patch("h1r.models.causal_lm.CausalLM.logits", side_effect=AssertionError("all logits at once")):
        chunked, *_ = accumulate_gradients(MODEL, documents, rows, micro_batch_size=2)
    assert chunked == pytest.approx(loss, rel=1e-12)
    assert gap(gradients(MODEL), whole) < 1e-10


def test_a_document_of_weight_zero_moves_nothing_but_its_tokens_count() -> None:
    documents = random_documents(11, 3)
    silent = [documents[0], Document(documents[1].ids, documents[1].loss, 0.0), documents[2]]
    loss, *_ = accumulate_gradients(MODEL, silent, [[0, 1, 2]], 1)
    found = gradients(MODEL)
    expected = obvious_loss(MODEL, silent)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-10)
    assert gap(found, gradients_of(MODEL, expected)) < 1e-9


def test_documents_are_trimmed_on_the_right_and_left_out_when_nothing_is_to_be_learned() -> None:
    encoded = [Encoded([1, 2, 3, 4], [0, 0, 1, 1]), Encoded([5, 6, 7, 8], [0, 0, 0, 1]), Encoded([9], [1])]
    documents = to_documents(encoded, [1.5, 1.0, 1.0], 3)
    assert documents == [Document([1, 2, 3], [0, 0, 1], 1.5)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=30),
    batch_size=st.integers(1, 5),
    seq_len=st.integers(5, 40),
    seed=st.integers(0, 99),
)
def test_an_epoch_shows_every_document_once_and_no_step_is_empty(
    lengths: list[int], batch_size: int, seq_len: int, seed: int
) -> None:
    section = SFTSection(epochs=4, batch_size=batch_size, seq_len=seq_len)
    documents = [Document([1] * length, [0] * (length - 1) + [1], 1.0) for length in lengths]
    batches = Batches(documents, section, seed)
    assert batches.total_steps == 4 * batches.steps_per_epoch
    for epoch in range(4):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        rows = [batches.rows_of(step) for step in steps]
        assert all(rows)
        assert sorted(i for step in rows for row in step for i in row) == list(range(len(lengths)))
        assert all(sum(min(lengths[i], seq_len) for i in row) <= seq_len for step in rows for row in step)


def test_no_step_is_empty_when_a_later_epoch_packs_into_fewer_rows() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(2, 12) for _ in range(40)]
    documents = [Document([1] * length, [0] * (length - 1) + [1], 1.0) for length in lengths]
    batches = Batches(documents, SFTSection(epochs=30, batch_size=1, seq_len=16), 0)
    packed = [len(pack(lengths, rng.sample(range(40), 40), 16)) for _ in range(100)]
    assert batches.steps_per_epoch > min(packed)
    assert all(batches.rows_of(step) for step in range(batches.total_steps))


@settings(max_examples=20, deadline=None)
@given(steps=st.permutations(range(12)), seed=st.integers(0, 9))
def test_the_rows_of_a_step_depend_on_its_number_alone(steps: list[int], seed: int) -> None:
    documents = random_documents(0, 25)
    section = SFTSection(epochs=9, batch_size=3, seq_len=30)
    in_order = Batches(documents, section, seed)
    expected = [in_order.rows_of(step) for step in range(12)]
    jumping = Batches(documents, section, seed)
    assert {step: jumping.rows_of(step) for step in steps} == dict(enumerate(expected))


def test_epochs_and_seeds_differ_in_order() -> None:
    documents = random_documents(0, 40)
    section = SFTSection(epochs=2, batch_size=1000, seq_len=30)
    one, other = Batches(documents, section, 0), Batches(documents, section, 1)
    assert one.rows_of(0) != one.rows_of(1)
    assert one.rows_of(0) != other.rows_of(0)


def test_part_of_an_epoch_takes_part_of_its_steps() -> None:
    documents = [Document([1, 2], [0, 1], 1.0)] * 40
    assert Batches(documents, SFTSection(epochs=0.5, batch_size=1, seq_len=2), 0).total_steps == 20
    assert Batches(documents, SFTSection(epochs=0.001, batch_size=1, seq_len=2), 0).total_steps == 1


def test_the_loss_of_a_run_falls(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(sft={**SFT, "epochs": 3})
    run = run_from(curated, tmp_path / "run", recipe)
    summary = sft(recipe, run)
    lines = metrics_of(run.path / "sft")
    assert [line["step"] for line in lines] == list(range(summary["steps"]))
    assert sum(line["loss"] for line in lines[-5:]) < 0.8 * sum(line["loss"] for line in lines[:5])
    assert max(line["learning_rate"] for line in lines) <= 5e-3
    samples = list(read_jsonl(run.path / "curate" / "samples.jsonl", Sample))
    encoded = encode_samples(load_tokenizer(run.path / "curate" / "tokenizer"), samples, "")
    assert sum(line["tokens"] for line in lines) == 3 * sum(min(len(one.token_ids), 128) for one in encoded)


@pytest.mark.parametrize(
    ("deaths", "tied"),
    [((6,), False), ((4, 9), True), ((2,), False)],
    ids=["once", "twice_with_tied_embeddings", "before_the_first_checkpoint"],
)
def test_a_resumed_sft_run_equals_an_unbroken_one_bit_for_bit(
    curated: Path, tmp_path: Path, deaths: tuple[int, ...], tied: bool
) -> None:
    overrides = {**training_recipe().model.overrides, "tie_word_embeddings": tied}
    recipe = training_recipe(sft=SFT, model={"overrides": overrides})
    unbroken = run_from(curated, tmp_path / "unbroken", recipe)
    expected = sft(recipe, unbroken)
    assert expected["steps"] > 12
    broken = run_from(curated, tmp_path / "broken", recipe)
    for attempt, step in enumerate(deaths):
        with pytest.raises(Killed):
            train_sft_in(broken, recipe, resume=attempt > 0, dies_after=step)
        found = Checkpoints(broken.path / "sft").latest()
        assert (found[0] if found else 0) == step // 4 * 4
        assert not (broken.path / "sft" / "model").exists()
    torch.manual_seed(12345)
    random.seed(54321)
    assert sft(recipe, broken, resume=True) == expected
    assert_same_stage(broken.path / "sft", unbroken.path / "sft")


@pytest.mark.slow
def test_kill_9_and_resume_equals_an_unbroken_run_bit_for_bit(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(sft={**SFT, "epochs": 6, "checkpoint_every": 5})
    unbroken = run_from(curated, tmp_path / "unbroken", recipe)
    summary = sft(recipe, unbroken)
    assert summary["steps"] > 60
    broken = run_from(curated, tmp_path / "broken", recipe)
    stage = broken.path / "sft"
    process = warm.start("sft", broken.path, env={"OMP_NUM_THREADS": "1"})
    try:
        metrics = stage / "metrics.jsonl"
        until = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 8 and Checkpoints(stage).latest()):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.001)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (stage / "model").exists()
    resumed = warm.run("sft", "--resume", "--json", broken.path, env={"OMP_NUM_THREADS": "1"})
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout) == summary
    assert_same_stage(stage, unbroken.path / "sft")


def test_a_seq_len_that_cuts_off_every_answer_is_refused_with_the_key(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(sft={**SFT, "seq_len": 4})
    run = run_from(curated, tmp_path / "run", recipe)
    with pytest.raises(UserError, match=r"sft\.seq_len = 4 cuts off every answer"):
        sft(recipe, run)


def test_empty_samples_are_refused_with_the_file(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(sft=SFT)
    run = run_from(curated, tmp_path / "run", recipe)
    shutil.rmtree(run.path / "curate" / "packed")
    (run.path / "curate" / "samples.jsonl").write_text("")
    with pytest.raises(UserError, match=r"curate/samples\.jsonl is empty"):
        sft(recipe, run)


def test_sft_whose_weights_become_no_numbers_ends_with_an_error_and_no_model(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(sft={**SFT, "optimizer": {"learning_rate": 1e38}, "max_idle_steps": 3})
    run = run_from(curated, tmp_path / "run", recipe)
    with pytest.raises(UserError, match=r"3 sft steps in a row changed no weight, the last since its gradient was not"):
        train_sft_in(run, recipe)
    recipe = training_recipe(sft={**SFT, "epochs": 0.01, "warmup_ratio": 0, "optimizer": {"learning_rate": 1e39}})
    run = run_from(curated, tmp_path / "short", recipe)
    with pytest.raises(UserError, match=r"weights are not finite after sft"):
        train_sft_in(run, recipe)
    assert not (run.path / "sft" / "model").exists()


def test_documents_that_are_kept_out_are_measured_and_never_trained_on(curated: Path, tmp_path: Path) -> None:
    found = {}
    for count in (0, 5):
        recipe = training_recipe(sft={**SFT, "validation": {"documents": count, "every": 2}})
        run = run_from(curated, tmp_path / str(count), recipe)
        found[count] = sft(recipe, run)
        lines = metrics_of(run.path / "sft")
        due = [line["step"] for line in lines if "validation_loss" in line]
        steps = found[count]["steps"]
        assert due == [step for step in range(steps) if count and ((step + 1) % 2 == 0 or step + 1 == steps)]
    assert found[5]["documents"] == found[0]["documents"] - 5
    tokenizer = load_tokenizer(curated / "curate" / "tokenizer")
    everything = read_samples(curated / "curate" / "samples.jsonl", tokenizer, None, 128)
    trained, held_out = kept_out(everything, 5, training_recipe(sft=SFT).seed)
    assert len(held_out) == 5
    assert sorted(str(one.ids) for one in (*trained, *held_out)) == sorted(str(one.ids) for one in everything)
    model = load(run.path / "sft" / "model")
    slow = sum(
        -weight * logprob.item()
        for one in held_out
        for logprob, weight in zip(sequence_logprobs(model, list(one.ids)), one.loss[1:], strict=True)
    )  # weights of samples are 1 here
    last = [line["validation_loss"] for line in lines if "validation_loss" in line][-1]
    assert last == pytest.approx(slow / sum(one.targets for one in held_out), rel=1e-4)


def test_the_best_model_is_published_and_a_run_that_goes_on_finds_it_again(curated: Path, tmp_path: Path) -> None:
    """A learning rate that grows too large makes the last model worse than one before."""
    keys = {**SFT, "epochs": 3, "optimizer": {"learning_rate": 1.0}, "min_lr_ratio": 1.0, "warmup_ratio": 1.0}
    recipe = training_recipe(sft={**keys, "validation": {"documents": 6, "every": 1, "publish": "best"}})
    whole = run_from(curated, tmp_path / "whole", recipe)
    summary = sft(recipe, whole)
    losses = [line["validation_loss"] for line in metrics_of(whole.path / "sft")]
    assert summary["validation_loss"] == min(losses) < losses[-1]
    documents = read_samples(
        curated / "curate" / "samples.jsonl", load_tokenizer(curated / "curate" / "tokenizer"), None, 128
    )
    held_out = kept_out(documents, 6, recipe.seed)[1]
    model = load(whole.path / "sft" / "model")
    assert validation_loss(model, held_out, recipe.sft) == pytest.approx(min(losses), rel=1e-5)

    broken = run_from(curated, tmp_path / "broken", recipe)
    with mock.patch("h1r.train.saver.save_checkpoint", side_effect=saved_then_killed(2)), pytest.raises(Killed):
        sft(recipe, broken)
    sft(recipe, broken, resume=True)
    assert_same_stage(broken.path / "sft", whole.path / "sft")


def saved_then_killed(at: int):
    """Saves checkpoints, and dies after so many."""
    count = itertools.count(1)

    def save(*arguments, **options):
        save_checkpoint(*arguments, **options)
        if next(count) == at:
            raise Killed

    return save


def test_the_best_needs_something_to_go_by() -> None:
    with pytest.raises(ValueError, match="needs documents to tell the best by"):
        SFTSection(validation={"publish": "best"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leaves nothing of 3 documents"):
        kept_out(random_documents(0, 3), 3, 0)
