"""The whole curation of a corpus: what comes out, that it adds up, and that where it runs is seen nowhere."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from corpora import answer, corpus_recipe, curated, outputs, question, trace

from h1r.config import Recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.records import Problem, Sample, normalise_text, read_jsonl


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    path = tmp_path_factory.mktemp("corpus")
    return curated(corpus_recipe(path), path / "run")


def reasons(summary: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(row["step"], why): count for row in summary["table"] for why, count in row["reasons"].items()}


def test_every_step_drops_what_was_put_there_for_it(done: tuple[dict[str, Any], Path]) -> None:
    found = reasons(done[0])
    assert found["read", "malformed row"] == 1
    assert found["reference answers", "reference answer does not verify"] == 1
    assert found["exact duplicates", "same question, traces merged"] == 2
    assert found["decontamination", "exact overlap with held-out"] == 2
    assert found["near duplicates", "nearly the same question"] == 1
    assert found["complete", "thinking not closed"] == 10
    assert found["empty", "empty thinking"] == 10
    assert found["incorrect", "wrong answer"] == 10
    assert found["unboxed", "no \\boxed{} answer"] == 10
    assert found["repetition", "repeats itself"] == 10 - 1  # problem 3 is held out
    assert found["repeated traces", "same trace"] == 10 + 2  # merged from copies


def test_the_table_adds_up_and_every_drop_is_in_the_file(done: tuple[dict[str, Any], Path]) -> None:
    summary, stage = done
    lines = [json.loads(line) for line in (stage / "dropped.jsonl").read_text().splitlines()]
    assert Counter((line["step"], line["reason"]) for line in lines) == reasons(summary)
    assert all(row["in"] - row["out"] == sum(row["reasons"].values()) for row in summary["table"])
    by_name = {row["step"]: row for row in summary["table"]}
    chain = [
        "normalise", "reference answers", "negative controls", "families of negative controls", "decontamination",
        "conflicting answers", "exact duplicates", "near duplicates",
    ]  # fmt: skip
    for before, after in pairwise(chain):
        assert by_name[before]["out"] == by_name[after]["in"], after
    assert by_name["near duplicates"]["out"] == by_name["RL pass rate"]["in"] + by_name["traces"]["in"]


def test_an_overlap_is_told_with_the_run_and_the_coverage(done: tuple[dict[str, Any], Path]) -> None:
    rows = [json.loads(line) for line in (done[1] / "dropped.jsonl").read_text().splitlines()]
    overlaps = [row for row in rows if row["step"] == "decontamination"]
    assert {row["coverage"] for row in overlaps} == {1.0}
    assert all(row["held_out"] and "run" in row for row in overlaps)
    assert not [row for row in rows if row["step"] != "decontamination" and "coverage" in row]
    near = [json.loads(line) for line in (done[1] / "near_held_out.jsonl").read_text().splitlines()]
    assert len(near) == done[0]["num_near_held_out"] > 0
    assert {row["kept_for"] for row in near} <= {"less than the coverage", "no run as long", "other numbers"}
    page = (done[1] / "report.html").read_text()
    assert "Near and kept" in page
    assert f"100% of {overlaps[0]['held_out']}" in page


def test_samples_are_right_and_neither_held_out_nor_in_the_rl_pool(done: tuple[dict[str, Any], Path]) -> None:
    _, stage = done
    samples = list(read_jsonl(stage / "samples.jsonl", Sample))
    numbers = {normalise_text(question(n)): n for n in range(60)}
    sums = [sample for sample in samples if sample.family == "sums"]
    assert len({sample.problem_id for sample in sums}) == 59
    for sample in sums:
        n = numbers[normalise_text(sample.messages[0].content)]
        assert n != 3
        assert f"\\boxed{{{answer(n)}}}" in sample.messages[-1].content
    pool = {problem.id for problem in read_jsonl(stage / "problems_rl.jsonl", Problem)}
    assert pool
    assert not pool & {sample.problem_id for sample in samples}


def test_the_rl_pool_follows_the_published_pass_rates(done: tuple[dict[str, Any], Path]) -> None:
    summary, stage = done
    rule = summary["rl_rule"]["rated"]
    assert rule["always solved"][0] == 0
    assert rule["always solved"][1] >= 6 - 1  # failed 0 %: six of sixty
    rates = [item.difficulty["published_pass_rate"] for item in read_jsonl(stage / "problems_rl.jsonl", Problem)]
    assert all(0 <= rate < 1 for rate in rates)
    assert sum(rate > 0 for rate in rates) >= 30
    assert sum(summary["pass_rates"]["rated"]) == 60 - 1 + 0  # one held out; one near duplicate; one unsound, of 62


def test_packed_rows_hold_the_samples_with_loss_on_their_last_turn_only(done: tuple[dict[str, Any], Path]) -> None:
    summary, stage = done
    tokenizer = load_tokenizer(stage / "tokenizer")
    samples = {}
    for sample in read_jsonl(stage / "samples.jsonl", Sample):
        samples[f"{sample.problem_id}#{sample.metadata['trace']}"] = sample
    seen = []
    for path in sorted((stage / "packed").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert len(row["input_ids"]) == len(row["loss_mask"]) == sum(row["document_lengths"]) <= 256
            start = 0
            for name, length, weight in zip(
                row["document_names"], row["document_lengths"], row["document_weights"], strict=True
            ):
                ids, mask = row["input_ids"][start : start + length], row["loss_mask"][start : start + length]
                start += length
                last = samples[name].messages[-1]
                taught = tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit])
                assert taught == f"<think>\n{last.thinking}\n</think>\n\n{last.content}<|im_end|>"
                assert weight == samples[name].weight
                if samples[name].family == "chats":
                    assert "first thoughts" not in tokenizer.decode(ids)
                seen.append(name)
    assert sorted(seen) == sorted(samples)
    assert summary["packed"]["tokens"] == sum(
        len(row["input_ids"])
        for path in (stage / "packed").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    )


def test_the_page_shows_the_counts_and_samples_of_what_was_dropped(done: tuple[dict[str, Any], Path]) -> None:
    page = (done[1] / "report.html").read_text()
    for text in (
        "Overlap with the benchmarks",
        "thinking not closed",
        "The 8-rollout rule",
        "{broken",
        "samples by length, up to so many tokens",
    ):
        assert text in page, text
    assert "<script" not in page


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(done: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, stage = curated(corpus_recipe(tmp_path, workers=2), tmp_path / "run")
    assert outputs(stage) == outputs(done[1])


@pytest.mark.slow
def test_ray_data_writes_the_bytes_of_one_process(
    done: tuple[dict[str, Any], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    _, stage = curated(corpus_recipe(tmp_path, executor="ray", workers=2), tmp_path / "run")
    assert not ray.is_initialized(), "what curation started, it ends"
    assert "Dataset" not in "".join(capfd.readouterr()), "one progress display is enough"
    assert outputs(stage) == outputs(done[1])


def test_a_mixture_has_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    recipe = corpus_recipe(tmp_path)
    tree = recipe.model_dump()
    silent = {**tree["corpus"]["sources"][0], "name": "silent", "domain": "code", "use": "rl", "path": "rated.jsonl"}
    (tmp_path / "rated.jsonl").write_text('{"q": "What is 1 + 1, in words?", "a": "two", "n": 1, "out": "two"}\n')
    tree["corpus"]["sources"].append(silent)
    tree["corpus"]["mixture"] = {"shares": {"math": 0.6, "other": 0.2, "code": 0.2}}
    summary, stage = curated(Recipe.model_validate(tree), tmp_path / "run")
    domains = Counter(sample.metadata["domain"] for sample in read_jsonl(stage / "samples.jsonl", Sample))
    assert domains["other"] == 15
    assert domains["math"] == 45
    assert summary["mixture"]["math"]["sample_share"] == 0.75
    assert summary["mixture"]["math"]["wanted_share"] == 0.6
    assert summary["mixture"]["code"]["kept_samples"] == 0, "a domain that gives nothing is told"
    assert "<td>code</td>" in (stage / "report.html").read_text()


def test_a_family_that_one_answer_solves_is_refused_from_the_counts_of_all_shards(tmp_path: Path) -> None:
    recipe = corpus_recipe(tmp_path)
    rows = [{"q": f"{question(2000 + n)} Say seven.", "a": "7", "n": n, "out": trace(0, said="7")} for n in range(40)]
    rows.append({"q": "Of 34 hens 3 lay blue eggs; how many do not?", "a": "31", "n": 40, "out": trace(0, said="31")})
    (tmp_path / "sevens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sums = recipe.corpus.sources[0]
    sevens = sums.model_copy(update={"name": "sevens", "path": "sevens.jsonl", "columns": {**sums.columns}})
    tree = recipe.model_dump()
    tree["corpus"]["sources"].append(sevens.model_dump())
    tree["corpus"]["shard_records"] = 15
    summary, stage = curated(Recipe.model_validate(tree), tmp_path / "run")
    assert reasons(summary)["families of negative controls", "its family is refused: one constant wins (7)"] == 41
    row = next(row for row in summary["controls"] if row["constant"][0] == "7")
    assert (row["items"], row["constant"]) == (41, ["7", 40, 41])
    families = {sample.family for sample in read_jsonl(stage / "samples.jsonl", Sample)}
    assert "sums" in families
    assert row["family"] not in families


def test_a_missing_file_names_the_source(tmp_path: Path) -> None:
    recipe = corpus_recipe(tmp_path)
    (tmp_path / "chats.jsonl").unlink()
    with pytest.raises(UserError, match="`chats`: no file"):
        curated(recipe, tmp_path / "run")


def test_an_unknown_verifier_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    recipe = corpus_recipe(tmp_path)
    sources = [source.model_copy(update={"verifier": "maths"}) for source in recipe.corpus.sources]
    wrong = recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update={"sources": sources})})
    with pytest.raises(UserError, match="unknown verifier `maths`"):
        curated(wrong, tmp_path / "run")
    assert not (tmp_path / "run" / "curate" / "work" / "read").exists()
