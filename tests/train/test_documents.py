"""Packed shards as training data: the documents of the samples, in their order, read when a batch needs them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from gloo_workers import Groups, Workers
from tiny_training import (
    Killed,
    assert_same_stage,
    gradients,
    read_weights,
    run_from,
    tiny_model,
    train_sft_in,
    training_recipe,
)

from h1r.common.files import read_json
from h1r.config import Recipe, TokenizerSection
from h1r.data.curate.plan import curate
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.run.directory import Run
from h1r.train import documents as module
from h1r.train.documents import Documents, PackedDocuments, read_samples
from h1r.train.parallel.world import World
from h1r.train.plan.run_time import documents_at_hand, run_time
from h1r.train.sft import Batches, accumulate_gradients, sft

SEQ_LEN = 192
SFT = {
    "epochs": 2, "batch_size": 2, "micro_batch_size": 1, "seq_len": SEQ_LEN, "checkpoint_every": 3,
    "optimizer": {"learning_rate": 5e-3},
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    return training_recipe(sft={**SFT, **changes})


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with nothing but the `curate/` of a corpus, in six shards."""
    path = tmp_path_factory.mktemp("corpus")
    with open(path / "sums.jsonl", "w") as lines:
        for n in range(40):
            worked = f"{n} apples and {n + 2} pears. " + "One by one we count them. " * (n % 5) + f"So {2 * n + 2}."
            lines.write(json.dumps({"question": f"What is {n} + {n + 2}?", "answer": 2 * n + 2, "solution": worked}))
            lines.write("\n")
    columns = {name: name for name in ("question", "answer", "solution")}
    source = {"name": "sums", "kind": "jsonl", "path": "sums.jsonl", "columns": columns}
    section = {"root": str(path), "sources": [source], "shard_records": 7, "workers": 1}
    found = training_recipe(sft=SFT, corpus=section, curate={"near_duplicate_threshold": 1.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("h1r.data.curate.io.samples.GROUP_TOKENS", 2 * SEQ_LEN)
        patch.setattr("h1r.data.curate.io.samples.PACK_TOKENS", 500)  # a few documents
        curate(found, Run.open(path / "run", found))
    packed = [pq.ParquetFile(shard) for shard in (path / "run" / "curate" / "packed").glob("*.parquet")]
    assert len(packed) == 6
    assert max(shard.num_row_groups for shard in packed) > 1
    assert max(shard.metadata.row_group(0).num_rows for shard in packed) == 2
    return path / "run"


def told(documents: Documents) -> list[tuple[Any, ...]]:
    return [(one.ids, one.loss, one.weight, one.length, one.targets) for one in documents]


def samples(curated: Path, seq_len: int) -> Documents:
    tokenizer = load_tokenizer(curated / "curate" / "tokenizer")
    return read_samples(curated / "curate" / "samples.jsonl", tokenizer, "", seq_len)


@pytest.mark.parametrize("seq_len", [SEQ_LEN, 60, 45])
def test_shards_hold_the_documents_of_the_samples_in_their_order(curated: Path, seq_len: int) -> None:
    expected = samples(curated, seq_len)
    assert len({one.weight for one in expected}) == 3
    if seq_len < SEQ_LEN:
        assert max(one.length for one in expected) == seq_len, "nothing is trimmed"
    found = PackedDocuments(curated / "curate" / "packed", seq_len)
    assert told(found) == told(expected)


def test_what_is_cut_off_before_its_answer_is_left_out(curated: Path) -> None:
    lengths = [one.length - one.targets for one in samples(curated, SEQ_LEN)]
    seq_len = sorted(lengths)[len(lengths) // 2]  # prompts differ in length by a token or two
    expected = samples(curated, seq_len)
    assert 0 < len(expected) < len(lengths)
    assert told(PackedDocuments(curated / "curate" / "packed", seq_len)) == told(expected)


def test_a_plan_knows_the_steps_of_shards_that_are_here(curated: Path) -> None:
    """Of the run, of `sft.data`, and of a mixture."""
    at_hand = recipe(data=str(curated / "curate"))
    mixed = recipe(mixture=[{"data": str(curated / "curate"), "share": share} for share in (1, 2)])
    made: Any = SimpleNamespace(stage="sft", tokens=2 * SEQ_LEN, seconds={"computing": 1.0}, bound_by="computing")
    for asked, run in ((recipe(), curated), (at_hand, None), (mixed, None)):
        found = documents_at_hand(asked, run)
        assert found is not None
        took = run_time(asked, made, found)
        assert took.steps == Batches(found, asked.sft, asked.seed).total_steps > 2
        assert took.tokens == sum(one.length for one in samples(curated, SEQ_LEN)) * (1 + bool(asked.sft.mixture))


def test_in_any_order_and_with_one_group_in_memory_the_documents_are_the_same(
    curated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    expected = told(samples(curated, SEQ_LEN))
    found = PackedDocuments(curated / "curate" / "packed", SEQ_LEN)
    order = random.Random(0).sample(range(len(expected)), len(expected))
    assert [told([found[at]])[0] for at in order] == [expected[at] for at in order]
    assert len(found._groups) == 1


def test_batches_are_made_without_reading_a_token(curated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: Any) -> Any:
        raise AssertionError("tokens were read")

    monkeypatch.setattr(PackedDocuments, "_group", no)
    found = PackedDocuments(curated / "curate" / "packed", SEQ_LEN)
    section = recipe().sft
    expected = Batches(samples(curated, SEQ_LEN), section, 3)
    batches = Batches(found, section, 3)
    assert [batches.rows_of(step) for step in range(batches.total_steps)] == [
        expected.rows_of(step) for step in range(expected.total_steps)
    ]


def test_a_process_reads_the_documents_of_its_own_micro_batches(curated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PackedDocuments(curated / "curate" / "packed", SEQ_LEN)
    model = tiny_model()
    rows = [[0, 1], [2], [3, 4], [5]]
    real = PackedDocuments.read
    read: set[int] = set()

    def noted(self: PackedDocuments, place: int) -> Any:
        read.add(place)
        ids, loss = real(self, place)
        return ids % 23, loss  # the model's vocabulary

    monkeypatch.setattr(PackedDocuments, "read", noted)
    shares: list[set[int]] = []
    for rank in range(2):
        read.clear()
        accumulate_gradients(model, found, rows, 1, World(data_rank=rank, data_degree=2))
        gradients(model)
        shares.append(set(read))
    assert sorted([*shares[0], *shares[1]]) == list(range(6))  # every document once, and each process its own alone
    assert all(share and all(set(row) <= share or not set(row) & share for row in rows) for share in shares)


def test_training_on_shards_has_the_bits_of_training_on_samples(curated: Path, tmp_path: Path) -> None:
    shards = run_from(curated, tmp_path / "shards", recipe())
    lines = run_from(curated, tmp_path / "lines", recipe())
    shutil.rmtree(lines.path / "curate" / "packed")
    elsewhere = recipe(data=str(curated / "curate"))
    other = Run.open(tmp_path / "other", elsewhere)
    (shards.path / "curate" / "samples.jsonl").unlink()
    summary = sft(recipe(), lines)
    assert summary["steps"] > 4
    assert sft(recipe(), shards) == summary
    assert sft(elsewhere, other) == summary
    assert_same_stage(shards.path / "sft", lines.path / "sft")
    assert_same_stage(other.path / "sft", lines.path / "sft")


def train(groups: Groups, found: Recipe, path: str) -> dict[str, Any]:
    return sft(found, Run(Path(path)))


def test_two_processes_on_shards_train_the_weights_of_one(curated: Path, tmp_path: Path) -> None:
    optimizer = {"learning_rate": 5e-3, "eps": 1e-3}  # as in test_parallel_sft
    found = recipe(epochs=1, optimizer=optimizer)
    alone = run_from(curated, tmp_path / "alone", found)
    summary = sft(found, alone)
    together = run_from(curated, tmp_path / "together", found)
    workers = Workers(2, tmp_path)
    try:
        summaries = workers.call(train, found, str(together.path))
    finally:
        workers.close()
    assert summaries == [{**summary, "loss": pytest.approx(summary["loss"], rel=1e-5)}] * 2
    one, other = (read_weights(run.path / "sft" / "model") for run in (alone, together))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-5


def test_a_resumed_run_on_shards_equals_an_unbroken_one_bit_for_bit(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run_from(curated, tmp_path / "unbroken", recipe())
    expected = sft(recipe(), unbroken)
    broken = run_from(curated, tmp_path / "broken", recipe())

    documents = PackedDocuments(broken.path / "curate" / "packed", recipe().sft.seq_len)
    with pytest.raises(Killed):
        train_sft_in(broken, recipe(), dies_after=4, documents=documents)
    assert sft(recipe(), broken, resume=True) == expected
    assert_same_stage(broken.path / "sft", unbroken.path / "sft")


def test_other_shards_under_a_run_that_has_begun_are_refused(curated: Path, tmp_path: Path) -> None:
    run = run_from(curated, tmp_path / "run", recipe(epochs=0.1))
    sft(recipe(epochs=0.1), run)
    assert read_json(run.path / "sft" / "data.json")
    next((run.path / "curate" / "packed").glob("*.parquet")).unlink()
    with pytest.raises(UserError, match=r"not those that .* began with"):
        sft(recipe(epochs=0.1), run, resume=True)


def test_what_is_no_curation_is_refused_with_the_path(curated: Path, tmp_path: Path) -> None:
    found = recipe(data=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"tokenizer is missing; set sft\.data to a directory that `h1r curate` wrote"):
        sft(found, Run.open(tmp_path / "a", found))
    shutil.copytree(curated / "curate" / "tokenizer", tmp_path / "empty" / "tokenizer")
    found = recipe(data=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"empty/packed holds no packed shard"):
        sft(found, Run.open(tmp_path / "b", found))
    shards = tmp_path / "empty" / "packed"
    shards.mkdir()
    one = pq.read_table(next((curated / "curate" / "packed").glob("*.parquet")))
    pq.write_table(one.drop_columns(["document_numbers"]), shards / "0.parquet")
    with pytest.raises(UserError, match=r"0\.parquet has no column `document_numbers`"):
        PackedDocuments(shards, SEQ_LEN)
    pq.write_table(one.slice(0, 0), shards / "0.parquet")
    with pytest.raises(UserError, match=r"empty/packed are empty"):
        PackedDocuments(shards, SEQ_LEN)
    with pytest.raises(UserError, match=r"sft\.seq_len = 2 cuts off every answer"):
        PackedDocuments(curated / "curate" / "packed", 2)


def test_a_tokenizer_other_than_the_runs_own_is_refused(curated: Path, tmp_path: Path) -> None:
    found = recipe(data=str(curated / "curate"))
    run = run_from(curated, tmp_path / "run", found)
    own = run.path / "curate" / "tokenizer" / "tokenizer.json"
    own.write_text(own.read_text() + " ")
    with pytest.raises(UserError, match="is another tokenizer than"):
        sft(found, run)


def test_another_file_under_the_same_name_and_of_the_same_size_is_refused(curated: Path, tmp_path: Path) -> None:
    chats = tmp_path / "own.jsonl"
    own = recipe(data=str(chats), epochs=0.5)
    own = own.model_copy(update={"tokenizer": TokenizerSection(path=str(curated / "curate" / "tokenizer"))})
    run = Run.open(tmp_path / "run", own)
    chats.write_text("".join(json.dumps({"question": f"Say {n}.", "answer": str(n)}) + "\n" for n in range(8)))
    sft(own, run)
    size = chats.stat().st_size
    sft(own, run, resume=True)
    chats.write_text(chats.read_text().replace('"7"', '"6"'))
    assert chats.stat().st_size == size
    with pytest.raises(UserError, match=r"not those that .* began with"):
        sft(own, run, resume=True)
