"""The joins on disk against the functions in memory that say the same of a list."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_memory import drop_exact_duplicates, drop_near_duplicates, length_class

from h1r.data.curate import passes
from h1r.data.curate.io.files import write_rows
from h1r.data.curate.joins import database as joins
from h1r.data.curate.joins.database import Joins
from h1r.data.curate.joins.keys import exact_keys, hash64
from h1r.data.curate.rules.dedup import shingles, template
from h1r.records import Problem

FIRST = "the a farmer sells red green apples pears on monday market day"
WORDS = f"{FIRST} to his old friend who pays in silver coins".split()


def problems(seed: int, count: int) -> list[Problem]:
    """Random questions, many of them copies, retypeset copies and near copies of others; families share a frame."""
    rng = random.Random(seed)
    found: list[Problem] = []
    for number in range(count):
        if found and rng.random() < 0.6:
            old = rng.choice(found)
            words = old.question.split()
            for _ in range(rng.choice((0, 0, 1, 2))):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            question, answer = " ".join(words), old.answer
            if rng.random() < 0.3:
                question = question.replace(" ", "  ").upper()
            if rng.random() < 0.2:
                question = question.replace(" = ", "=")
            family = old.family
        else:
            words = rng.choices(WORDS, k=rng.randrange(12, 40))
            question, answer = " ".join([*words, "x = ", str(rng.randrange(4))]), str(rng.randrange(3))
            family = rng.choice("ab")
            if family == "a":
                question = f"In this exercise we ask you to think and say how many: {question}"
        found.append(Problem(id=f"p{number}", question=question, answer=answer, family=family))
    return found


def write_keys(work: Path, found: list[Problem], held: list[Problem], shards: int) -> None:
    rows = [(at, p.id, *exact_keys(p), hash64(p.answer)) for at, p in enumerate(found)]
    for shard in range(shards):
        write_rows(work / "keys" / f"{shard}.parquet", passes.KEYS, rows[shard::shards])
    held_rows = [(at - len(held), p.id, *exact_keys(p), 0) for at, p in enumerate(held)]
    write_rows(work / "held_keys" / "held.parquet", passes.KEYS, held_rows)


def near_on_disk(
    work: Path, found: list[Problem], held: list[Problem], thresholds: tuple[float, float], share: float
) -> list[str]:
    everything = [*enumerate(found), *((at - len(held), p) for at, p in enumerate(held))]
    families = {p.family for _, p in everything}
    grams = {
        name: template((shingles(p.question) for _, p in everything if p.family == name), share) for name in families
    }
    templates = {name: frozenset(map(str, one)) for name, one in grams.items()}
    passes.write_compared(work, "all", everything, templates, thresholds[1])
    with Joins(work, 256) as database:
        database.near(templates, *thresholds)
    return [found[at].id for at in pq.read_table(work / "near.parquet").column("ordinal").to_pylist()]


@pytest.fixture(params=[128, 10_000_000], ids=["in one part", "in many parts"])
def row_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What a row is said to cost, which says in how many parts the joins go through the tables."""
    monkeypatch.setattr(joins, "KEY_BYTES", request.param)
    monkeypatch.setattr(joins, "BAND_BYTES", request.param)
    return int(request.param)


@pytest.mark.usefixtures("row_bytes")
@pytest.mark.parametrize("seed", range(3))
def test_exact_duplicates_are_those_of_the_function_in_memory(tmp_path: Path, seed: int) -> None:
    found = problems(seed, 300)
    write_keys(tmp_path, found, [], shards=3)
    with Joins(tmp_path, 256) as database:
        database.exact()
    table = pq.read_table(tmp_path / "exact.parquet")
    _, dropped = drop_exact_duplicates(found)
    assert [found[at].id for at in table.column("ordinal").to_pylist()] == [one.id for one in dropped]
    assert len(dropped) > 20


@pytest.mark.usefixtures("row_bytes")
def test_a_suspect_is_any_record_that_shares_numbers_and_answer_with_another(tmp_path: Path) -> None:
    found = problems(9, 60)
    held = [Problem(id="h", question="Nothing here has any 777 like it", answer="777")]
    twin = Problem(id="t", question="Other words around 777", answer="777")
    write_keys(tmp_path, [*found, twin], held, shards=2)
    with Joins(tmp_path, 256) as database:
        database.exact()
    suspects = set(pq.read_table(tmp_path / "suspects.parquet").column("ordinal").to_pylist())
    assert {-1, len(found)} <= suspects
    blocks = [exact_keys(p)[1] for p in found]
    copies = set(pq.read_table(tmp_path / "exact.parquet").column("ordinal").to_pylist())
    left = [at for at in range(len(found)) if at not in copies]
    expected = {at for at in left if sum(blocks[other] == blocks[at] for other in left) > 1}
    assert suspects - {-1, len(found)} == expected


@pytest.mark.usefixtures("row_bytes")
@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_the_function_in_memory(tmp_path: Path, seed: int) -> None:
    everything, _ = drop_exact_duplicates(problems(seed, 300))
    held, found = everything[:10], everything[10:]
    _, dropped = drop_near_duplicates(found, 0.7, 0.5, held, 0.6)
    assert near_on_disk(tmp_path, found, held, (0.7, 0.6), 0.5) == [one.id for one in dropped]
    assert len(dropped) > 20


def test_what_the_joins_leave_has_the_same_bytes_in_one_part_and_in_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = drop_exact_duplicates(problems(4, 300))
    left = []
    for cost in (128, 10_000_000):
        monkeypatch.setattr(joins, "KEY_BYTES", cost)
        monkeypatch.setattr(joins, "BAND_BYTES", cost)
        work = tmp_path / str(cost)
        write_keys(work, problems(4, 300), [], shards=3)
        with Joins(work, 256) as database:
            database.exact()
        near_on_disk(work, found, [], (0.7, 0.6), 0.5)
        files = [path for path in work.rglob("*") if path.is_file()]
        left.append({str(path.relative_to(work)): path.read_bytes() for path in files})
    assert left[0] == left[1]
    assert {"exact.parquet", "suspects.parquet", "near.parquet"} == {name for name in left[0] if "/" not in name}
    assert not [name for name in left[0] if name.startswith("spill/")]


def test_large_groups_are_compared_with_what_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "ALL_PAIRS", 4)
    base = " ".join(random.Random(1).choices(WORDS, k=60))
    found = [Problem(id=str(n), question=f"{base} {WORDS[n % 20]}{'abcdefg'[n // 20]}", answer="1") for n in range(60)]
    assert near_on_disk(tmp_path, found, [], (0.9, 0.9), 1.0) == [str(n) for n in range(1, 60)]


def test_length_classes_are_those_of_the_function_in_memory(tmp_path: Path) -> None:
    rng = random.Random(0)
    lengths = {name: sorted(float(rng.randrange(top)) for _ in range(200)) for name, top in (("a", 40), ("b", 4000))}
    rows = [(name, length) for name, found in lengths.items() for length in found]
    rng.shuffle(rows)
    write_rows(tmp_path / "lengths" / "0.parquet", passes.LENGTHS, rows[:150])
    write_rows(tmp_path / "lengths" / "1.parquet", passes.LENGTHS, rows[150:])
    with Joins(tmp_path, 256) as database:
        cuts = database.length_classes(0.25, 0.3)
    for name, length in rows:
        easy, hard = cuts[name]
        found = "hard" if length >= hard else "easy" if length <= easy else "medium"
        assert found == length_class(length, lengths[name], 0.25, 0.3)


def test_a_mixture_by_tokens_is_the_largest_with_the_shares(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [(f"{domain}{n}", domain, rng.randrange(1, 100), hash64(domain, str(n)))
            for domain, count in (("math", 2000), ("code", 300), ("chat", 50)) for n in range(count)]  # fmt: skip
    write_rows(tmp_path / "sample_sizes" / "0.parquet", passes.SIZES, rows)
    with Joins(tmp_path, 256) as database:
        found = database.mixture({"math": 0.6, "code": 0.4}, "tokens")
        everything = database.mixture({}, "samples")
    code = sum(tokens for _, domain, tokens, _ in rows if domain == "code")
    assert found["code"]["kept_tokens"] == code
    assert 1.5 * code - 100 < found["math"]["kept_tokens"] <= 1.5 * code
    assert found["chat"]["kept_samples"] == 0
    kept = [row for row in rows if row[1] == "math" and row[3] <= found["math"]["cutoff"]]
    assert sum(row[2] for row in kept) == found["math"]["kept_tokens"]
    assert all(one["kept_samples"] == one["samples"] for one in everything.values())


def test_the_joins_end_in_a_memory_far_smaller_than_their_tables(tmp_path: Path) -> None:
    ordinals = np.arange(30_000)
    pairs = hashes(ordinals // 2)
    blocks, bands = hashes(ordinals // 4), np.arange(32)
    columns = [
        np.repeat(ordinals, 32),
        np.repeat(blocks, 32),
        np.tile(bands, 30_000),
        (pairs[:, None] + bands).reshape(-1),
    ]
    write_table(tmp_path / "bands" / "0.parquet", passes.BANDS, columns)
    ids = [f"p{ordinal}" for ordinal in ordinals]
    texts = [f"{' '.join(WORDS)} and {ordinal // 2} of them" for ordinal in ordinals]
    write_table(tmp_path / "texts" / "0.parquet", passes.TEXTS, [ordinals, blocks, ids, texts, ["a"] * 30_000])
    write_table(tmp_path / "keys" / "0.parquet", passes.KEYS, [ordinals, ids, pairs, blocks, pairs])
    write_table(tmp_path / "held_keys" / "0.parquet", passes.KEYS, [[]] * 5)
    with Joins(tmp_path, 16) as database:
        database.exact()
        database.near({}, 0.9, 0.9)
    for name in ("exact", "near"):
        assert pq.read_table(tmp_path / f"{name}.parquet").column("ordinal").to_pylist() == list(range(1, 30_000, 2))


def hashes(numbers: np.ndarray) -> np.ndarray:
    """64-bit numbers spread over their range, equal for equal ones."""
    return (numbers * np.int64(-7046029254386353131)).astype(np.int64)


def write_table(path: Path, schema: pa.Schema, columns: Sequence[Sequence[object] | np.ndarray]) -> None:
    path.parent.mkdir(parents=True)
    order = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema)
    pq.write_table(order.sort_by("block"), path, row_group_size=8192)
