"""Data mixed by shares: what each pass and each batch shows, and runs on several data that die and go on."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import (
    Killed,
    assert_same_stage,
    gap,
    gradients,
    metrics_of,
    random_ids,
    tiny_model,
    train_sft_in,
    training_recipe,
)

from h1r.config import MixedDataSection, Recipe, SFTSection
from h1r.errors import UserError
from h1r.run.directory import Run
from h1r.train.documents import Document
from h1r.train.mixture import Joined, Passes, interleaved, labels_of
from h1r.train.parallel.world import ALONE
from h1r.train.sft import Batches, _documents, accumulate_gradients, sft
from h1r.train.start import saved_tokenizer
from h1r.train.validation import kept_out


def parts(*shares: float) -> list[MixedDataSection]:
    return [MixedDataSection(data=f"part {number}", share=share) for number, share in enumerate(shares)]


def documents_with(lengths: list[int], source: int) -> list[Document]:
    return [Document([5] * length, [1] * length, 1.0, source) for length in lengths]


LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(LENGTHS, st.floats(0.05, 1.0)), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(1, 5),
    st.integers(40, 90),
)
def test_every_stretch_of_rows_has_the_shares_and_no_document_is_favoured(
    drawn: list[tuple[list[int], float]], seed: int, batch: int, seq_len: int
) -> None:
    mixture = parts(*(share for _, share in drawn))
    together = Joined([documents_with(lengths, source) for source, (lengths, _) in enumerate(drawn)])
    section = SFTSection(mixture=mixture, batch_size=batch, seq_len=seq_len, epochs=3)
    batches = Batches(together, section, seed)
    assert batches.passes is not None
    shown: Counter[int] = Counter()
    for epoch in range(3):
        steps = [batches.rows_of(epoch * batches.steps_per_epoch + at) for at in range(batches.steps_per_epoch)]
        assert all(steps)
        rows = [row for step in steps for row in step]
        sources = [{together[place].source for place in row} for row in rows]
        assert all(len(of_row) == 1 for of_row in sources)  # a row is of one part
        kinds = [source for (source,) in sources]
        for source in range(len(drawn)):
            before = 0
            for at, kind in enumerate(kinds, start=1):
                before += kind == source
                assert abs(before - at * kinds.count(source) / len(kinds)) <= len(drawn)
        pass_shown = Counter(place for row in rows for place in row)
        by_part = Counter(dict.fromkeys(range(len(drawn)), 0))
        for place, times in pass_shown.items():
            by_part[together[place].source] += times
        assert [by_part[source] for source in range(len(drawn))] == batches.passes.counts
        shown += pass_shown
        for source in range(len(drawn)):
            times = [shown[place] for place in range(len(together)) if together[place].source == source]
            assert max(times) - min(times) <= 1


def test_a_pass_has_the_tokens_of_all_and_each_part_its_share() -> None:
    lengths = [[10] * 300, [50] * 60, [20] * 15]
    together = Joined([documents_with(of, source) for source, of in enumerate(lengths)])
    mixture = parts(5, 3, 2)
    every = [one.length for one in together]
    passes = Passes(every, [one.source for one in together], mixture, 0)
    tokens = [sum(every[place] for place in order) for order in passes.orders(7)]
    assert tokens == pytest.approx([0.5 * 6300, 0.3 * 6300, 0.2 * 6300], abs=50)
    assert passes.counts == [315, 38, 63]
    assert sorted(interleaved([["a"] * 5, ["b"] * 2])) == list("aaaaabb")
    assert "".join(interleaved([["a"] * 4, ["b"] * 2])) == "abaaba"


def test_joined_documents_are_those_of_their_parts_in_order() -> None:
    parts_of = [documents_with([2, 3], 0), documents_with([], 1), documents_with([4], 2)]
    together = Joined(parts_of)
    assert [one.length for one in together] == [2, 3, 4]
    assert [one.length for one in together[1:]] == [3, 4]
    assert (together[-1].length, together[-3].length) == (4, 2)
    with pytest.raises(IndexError):
        together[3]


def test_a_step_is_a_function_of_its_number() -> None:
    together = Joined([documents_with([3, 9, 4] * 9, 0), documents_with([8, 2], 1)])
    section = SFTSection(mixture=parts(1, 2), batch_size=2, seq_len=12, epochs=4)
    unbroken, other = Batches(together, section, 1), Batches(together, section, 1)
    steps = [unbroken.rows_of(step) for step in range(unbroken.total_steps)]
    assert [other.rows_of(step) for step in reversed(range(other.total_steps))] == steps[::-1]
    assert [Batches(together, section, 2).rows_of(step) for step in range(4)] != steps[:4]


def mixed(curated: Path, chats: Path, **changes: Any) -> Recipe:
    """The curated data, and a file of chats whose documents are a third of the tokens."""
    return training_recipe(
        sft={
            "epochs": 2, "batch_size": 2, "micro_batch_size": 1, "seq_len": 192, "checkpoint_every": 3,
            "optimizer": {"learning_rate": 5e-3}, **changes,
            "mixture": [
                {"data": str(curated / "curate"), "share": 2},
                {"data": str(chats), "share": 1, "columns": {"question": "ask"}},
            ],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "own.jsonl"
    path.write_text("".join(json.dumps({"ask": f"Say {n}.", "answer": str(n)}) + "\n" for n in range(6)))
    return path


def test_the_loss_of_each_part_is_that_of_a_batch_of_it_alone() -> None:
    rng, model = random.Random(3), tiny_model()
    lengths, sources = [7, 4, 9, 5, 6, 3], [0, 2, 0, 2, 0, 2]
    documents = [
        Document(random_ids(rng, length), [rng.randint(0, 1) for _ in range(length - 1)] + [1], weight, source)
        for length, source, weight in zip(lengths, sources, [1.0, 0.5, 1.5, 1.0, 1.0, 2.0], strict=True)
    ]
    rows = [[0, 2], [1, 3], [4], [5]]
    loss, tokens, each = accumulate_gradients(model, documents, rows, 2, parts=4)
    found = gradients(model)
    assert accumulate_gradients(model, documents, rows, 2) == (loss, tokens, [])
    assert gap(gradients(model), found) == 0
    assert [math.isnan(one) for one in each] == [False, True, False, True]
    for source in (0, 2):
        alone = [[at for at in row if sources[at] == source] for row in rows]
        expected, *_ = accumulate_gradients(model, documents, [row for row in alone if row], 1)
        assert each[source] == pytest.approx(expected, rel=1e-12)
    named = [MixedDataSection(data=name, share=1) for name in ("runs/math/curate", "own (1).jsonl", "b/math")]
    assert labels_of(named) == ["math 1", "own__1_.jsonl", "math 3"]


def test_a_resumed_run_on_a_mixture_equals_an_unbroken_one_bit_for_bit(
    curated: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = mixed(curated, chats)
    unbroken, broken = Run.open(tmp_path / "unbroken", recipe), Run.open(tmp_path / "broken", recipe)
    expected = sft(recipe, unbroken)
    assert expected["steps"] > 6
    lines = metrics_of(unbroken.path / "sft")
    names = [f"loss/{label}" for label in (curated.name, "own.jsonl")]
    assert all(any(name in line for name in names) for line in lines)
    for line in (line for line in lines if all(name in line for name in names)):
        assert min(line[name] for name in names) <= line["loss"] <= max(line[name] for name in names)
    assert {name for line in lines for name in line if name.startswith("loss/")} == set(names)
    told = capsys.readouterr().err
    assert f"{chats}: 33.3% of the tokens; 6 documents, each" in told
    documents = _documents(recipe, broken, saved_tokenizer(recipe, broken), ALONE)
    assert {one.source for one in documents} == {0, 1}
    with pytest.raises(Killed):
        train_sft_in(broken, recipe, dies_after=4, documents=documents)
    assert sft(recipe, broken, resume=True) == expected
    assert_same_stage(broken.path / "sft", unbroken.path / "sft")
    chats.write_text(chats.read_text().replace('"5"', '"4"'))
    try:
        with pytest.raises(UserError, match=r"those of sft\.mixture\) are not those that .* began with"):
            sft(recipe, broken, resume=True)
    finally:
        chats.write_text(chats.read_text().replace('"Say 5.", "answer": "4"', '"Say 5.", "answer": "5"'))


def test_what_cannot_be_mixed_is_refused_by_name(curated: Path, chats: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sft\.mixture names its own data and columns"):
        mixed(curated, chats, data="elsewhere")
    together = Joined([documents_with([3, 4, 5], 0), documents_with([3], 1)])
    section = SFTSection(mixture=parts(1, 1))
    trained = next(
        trained
        for trained, out in (kept_out(together, 2, seed) for seed in range(20))
        if any(one.source == 1 for one in out)
    )
    with pytest.raises(UserError, match="nothing of part 1 is left to train on"):
        Batches(trained, section, 0)
    recipe = mixed(curated, chats)
    other = tmp_path / "curate"
    other.mkdir()
    recipe.sft.mixture.append(MixedDataSection(data=str(other), share=1))
    run = Run.open(tmp_path / "run", recipe)
    with pytest.raises(UserError, match=r"tokenizer is missing; name a directory in sft\.mixture"):
        sft(recipe, run)
    tokenizer = saved_tokenizer(recipe, run)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(other / "tokenizer")
    with pytest.raises(UserError, match="another chat template"):
        sft(recipe, run)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other / "tokenizer")
    with pytest.raises(UserError, match="another tokenizer than that of the run"):
        sft(recipe, run)
