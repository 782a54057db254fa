"""The report of a synthetic run: right numbers, hostile text made harmless, nothing outside the file, no overflow."""

from __future__ import annotations

import html
import html.parser
import io
import json
import math
import os
import platform
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from browser import CHROMIUM, browse, opened
from h1r.common.html import count, duration, esc, percent, plural, size
from h1r.config import ModelSection, Recipe
from h1r.errors import UserError
from h1r.evals.summary import result_table
from h1r.report import collect, save_main_plot, summarise, write_comparison, write_report
from h1r.report.collect import DROPPED_PER_REASON, series
from h1r.report.compare import comparison_page, comparison_table, mean_and_deviation
from h1r.report.curves import Curve, curve_plot, log_ticks, running_mean, window_for
from h1r.report.data import kept_of
from h1r.report.page import _command
from h1r.report.results import _sft_panels, whole_batches
from h1r.report.stored import Example, FilterStep
from h1r.report.svg import to_svg
from h1r.report.traces import LEVELS, SHOWN_TOKENS, Scale, choose, trace_html
from h1r.run.directory import Run
from machine import slowness

FAMILIES = ["chain_sum", "simple_equations", "spell_backward", "family_relationships", "number_sequence"]
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def build_run(path: Path, seed: int = 0, stages: str = "curate sft rl_pool rl eval scaling") -> Path:
    """A run directory like a real one, without training anything."""
    rng = random.Random(seed)
    recipe = Recipe(name="demo", seed=seed, model=ModelSection(preset="tiny"))
    _json(path / "recipe.json", recipe.model_dump(mode="json"))
    names = ["curate", "eval_base", "sft", "eval_sft", "pool", "rl", "eval_rl", "scaling"]
    seconds = [14.2, 9.7, 171.3, 24.9, 48.0, 402.6, 23.8, 61.5]
    _json(
        path / "stages.json",
        {
            n: {"wall_seconds": s, "peak_rss_bytes": 2**30 + 2**27 * i}
            for i, (n, s) in enumerate(zip(names, seconds, strict=True))
        },
    )
    attempts = [
        {"stage": n, "time": 1767225600 + 60 * i, "argv": ["/usr/bin/h1r", "demo", "--seed", str(seed)],
         "h1r": "0.1.0", "commit": "89bd111a2b3c4d5e6f708192a3b4c5d6e7f80910"}
        for i, n in enumerate(names)
    ]  # fmt: skip
    _jsonl(path / "attempts.jsonl", attempts)
    if "curate" in stages:
        _write_curation(path, rng)
    if "sft" in stages:
        _jsonl(path / "sft" / "metrics.jsonl", [_sft_line(step, rng) for step in range(240)])
    if "rl_pool" in stages:
        table = [{"step": "pass_rate", "in": 1000, "out": 640,
                  "reasons": {"always_solved": 190, "likely_wrong_label": 31, "overlong": 139}}]  # fmt: skip
        _json(path / "rl_pool" / "summary.json",
              {"table": table, "pass_rate_histogram": [170, 120, 98, 92, 88, 84, 78, 80, 190]})  # fmt: skip
    if "rl" in stages.split():
        _jsonl(path / "rl" / "metrics.jsonl", [_rl_line(step, rng) for step in range(60)])
    if "eval" in stages:
        for stage, skill in (("base", 0.004), ("sft", 0.42), ("rl", 0.56)):
            _json(path / "eval" / f"{stage}.json", _evaluation(stage, skill, rng))
    if "scaling" in stages:
        _json(path / "scaling" / "result.json", _scaling())
    return path


def _write_curation(path: Path, rng: random.Random) -> None:
    rows: list[tuple[str, str, int, dict[str, int]]] = [
        ("read", "problem", 5202, {"malformed line": 2}),
        ("reference answers", "problem", 5200, {"reference answer does not verify": 14}),
        ("near duplicates", "problem", 4995, {"near duplicate": 191}),
        ("decontamination", "problem", 4804, {"exact overlap with held-out": 12, "ngram overlap with held-out": 20}),
        ("correct", "trace", 8213, {"wrong answer": 203, "no answer": 26}),
        ("form", "trace", 7984, {"empty thinking": 33}),
        ("repeated traces", "trace", 7951, {"repeats a trace": 640}),
    ]
    table = [
        {"step": step, "unit": unit, "in": taken, "out": taken - sum(reasons.values()), "reasons": reasons}
        for step, unit, taken, reasons in rows
    ]
    overlap = {
        "held_out": 200,
        "held_out_hit": 20,
        "exact": 12,
        "contained": 0,
        "ngram": 20,
        "total": 32,
        "percent": 0.67,
    }
    _json(
        path / "curate" / "summary.json",
        {
            "table": table,
            "classes": {"easy": 1827, "medium": 3656, "hard": 1828},
            "families": {name: {"samples": rng.randrange(900, 1700), "mean_chars": 312.4} for name in FAMILIES},
            "contamination": {"sft": {"reasoning-gym": overlap}, "rl": {"reasoning-gym": {**overlap, "total": 3}}},
            "problems": {"held_out": 200, "train": 3790, "rl": 982},
            "rejected_lines": 2,
        },
    )
    dropped = [
        {"id": f"{step}{k}", "step": step, "reason": reason, "excerpt": f"Compute {k} + 5. {HOSTILE}"}
        for step, _, _, reasons in rows
        for reason, number in reasons.items()
        for k in range(min(number, 40))
    ]
    _jsonl(path / "curate" / "dropped.jsonl", dropped)


def _sft_line(step: int, rng: random.Random) -> dict[str, Any]:
    loss = 0.32 + 5.2 * math.exp(-step / 22) + 0.06 * rng.random()
    return {"step": step, "time": 1.0, "loss": loss, "learning_rate": 1e-3 * (1 - step / 240), "grad_norm": 0.6,
            "tokens": 8192, "tokens_per_s": 5100 + 300 * rng.random()}  # fmt: skip


def _rl_line(step: int, rng: random.Random) -> dict[str, Any]:
    rise = 1 - math.exp(-step / 25)
    noise = rng.gauss(0, 1)
    return {
        "step": step, "time": 1.0, "reward": 0.38 + 0.25 * rise + 0.04 * noise,
        "accuracy": 0.42 + 0.2 * rise + 0.04 * noise,
        "format": 0.9 + 0.09 * rise, "loss": 0.01 * noise, "pg_loss": 0.01, "ce_loss": 0.2,
        "clip_fraction": 0.004 + 0.001 * abs(noise), "entropy": 0.31 - 0.12 * rise + 0.01 * noise,
        "mean_tokens": 96 + 14 * rise + 2 * noise, "truncated": 0.02, "tis_mean": 1 + 0.002 * noise, "grad_norm": 0.4,
        "learning_rate": 1e-4, "groups_generated": 40, "groups_dropped": 11, "groups_from_cache": 3,
        "sync_seconds": 0.5, "rollout_seconds": 4.1, "train_seconds": 2.4, "nonfinite": 0,
    }  # fmt: skip


def _evaluation(stage: str, skill: float, rng: random.Random) -> dict[str, Any]:
    per_family = {}
    for place, family in enumerate(FAMILIES):
        score = min(0.99, max(0.0, skill * (1.5 - 0.25 * place)))
        spread = 0.11 * math.sqrt(score * (1 - score) / 0.25) + 0.005
        per_family[family] = {
            "pass_at_1": score, "interval": [max(0, score - spread), min(1, score + spread)], "n": 40,
        }  # fmt: skip
    return {
        "pass_at_1": skill, "interval": [max(0, skill - 0.05), skill + 0.05], "per_family": per_family,
        "mean_tokens": 160.0 if stage == "base" else 97.3, "truncated": 0.9 if stage == "base" else 0.02,
        "no_answer": 0.97 if stage == "base" else 0.04, "unscored": 0.0,
        "confidence_level": 0.95, "samples_per_problem": 16, "problems": 200,
        "examples": [_example(stage, index, rng) for index in range(20)],
    }  # fmt: skip


def _example(stage: str, index: int, rng: random.Random) -> dict[str, Any]:
    family = FAMILIES[index % len(FAMILIES)]
    correct = stage != "base" and [True, False, True, False][index // 5] is not (stage == "rl" and 5 <= index < 10)
    a, b, c = 17 + index, 48 + 3 * index, 9 + index
    total = a + b - c + (0 if correct else 10)
    if stage == "base":
        tokens = [rng.choice([" the", "7", "x", " =", "qu", "\n", "<|im_start|>", "é"]) for _ in range(80)]
    else:
        text = f"<think>\nStart with {a}.\nAdd {b}: {a} + {b} = {a + b}.\nTake away {c}: {a + b} - {c} = {total}.\n"
        text += f"So the result is {total}.\n</think>\nThe answer is \\boxed{{{total}}}.<|im_end|>"
        tokens = re.findall(r"\s?[\w<|>/]+|[^\w]", text)
    if index == 0:
        tokens.insert(5, HOSTILE)
    sure = 3.2 if stage == "base" else 11.0
    confidences = [
        sure + rng.gauss(0, 1.0) - (5 * rng.random() if t.strip().isdigit() and not correct else 0) for t in tokens
    ]
    return {
        "family": family, "question": f"State the final answer to: {a} + {b} - {c} ={HOSTILE if index == 0 else ''}",
        "reference": str(a + b - c), "correct": correct, "text": "".join(tokens), "tokens": tokens,
        "confidences": confidences, "finish_reason": "length" if stage == "base" else "stop",
    }  # fmt: skip


def _scaling() -> dict[str, Any]:
    budgets = []
    for budget, vote, deep, share in ((8, 0.6, 0.6, 0.9), (16, 0.635, 0.64, 0.72), (32, 0.66, 0.675, 0.61)):
        budgets.append({
            "budget": budget, "majority": {"accuracy": vote, "tokens": 97.3 * budget * 100},
            "deepconf": {"accuracy": deep, "tokens": 97.3 * budget * 100 * share, "simulated": budget != 32},
            "saving": {"consensus": 0.75 * (1 - share), "confidence": 0.25 * (1 - share)},
        })  # fmt: skip
    last = budgets[-1]
    return {
        "budget": 32, "majority": last["majority"], "deepconf": last["deepconf"], "budgets": budgets,
        "voters": {"majority": 0.66, "mean": 0.665, "tail": 0.66, "bottom_window": 0.67, "min_window": 0.675},
        "methods": {"short_3": {"accuracy": 0.61, "tokens": 31_000, "simulated": True, "paired": {
            "accuracy_difference": -0.05, "accuracy_interval": [-0.08, -0.02]}}},
        "paired": {"accuracy_difference": 0.015, "accuracy_interval": [-0.01, 0.04],
                   "token_saving": 0.39, "token_saving_interval": [0.361, 0.418]},
        "examples": [_stopped("voted", 46), _stopped("stopped", 30)], "confidence": {"auroc": 0.71}, "problems": 100,
    }  # fmt: skip


def _stopped(state: str, tokens: int) -> dict[str, Any]:
    """A trace of the scaling study: `tokens` tokens whose confidence falls when it was stopped."""
    fall = 0.2 if state == "stopped" else 0.0
    return {
        "family": "chain_sum", "question": "State the final answer to: 4 + 9 =", "reference": "13",
        "correct": state == "voted", "text": "", "tokens": [f" {k}" for k in range(tokens)],
        "confidences": [12 - fall * k for k in range(tokens)], "finish_reason": "confidence" if fall else "stop",
        "state": state, "threshold": 9.81, "vote": {"answer": "13"},
    }  # fmt: skip


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class _Links(html.parser.HTMLParser):
    """Collects what a browser would load or run, and checks that every element is closed by its own end tag."""

    VOID = ("meta", "br", "img", "use", "link")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.stack.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "poster", "action", "srcset"):
                self.loaded.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag


def parse(page: str) -> _Links:
    parser = _Links()
    parser.feed(page)
    parser.close()
    assert not parser.stack
    return parser


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages with its report, which no test changes."""
    run = build_run(tmp_path_factory.mktemp("whole") / "run", seed=3)
    write_report(run)
    return run


@pytest.fixture
def whole_page(whole: Path) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


def test_report_json_holds_the_promised_numbers(whole: Path) -> None:
    numbers = json.loads((whole / "report.json").read_text(encoding="utf-8"))
    assert numbers["pass_at_1"] == {"base": 0.004, "sft": 0.42, "rl": 0.56}
    assert numbers["scaling"]["budget"] == 32
    assert numbers["scaling"]["majority"] == {"accuracy": 0.66, "tokens": 97.3 * 3200}
    assert numbers["scaling"]["deepconf"] == {"accuracy": 0.675, "tokens": 97.3 * 3200 * 0.61}
    assert numbers["wall_seconds"] == pytest.approx(756.0)
    assert numbers["peak_rss_bytes"] == 2**30 + 7 * 2**27
    assert numbers["seed"] == 3


def test_page_is_one_file_without_scripts_and_well_formed(whole_page: str) -> None:
    found = parse(whole_page)
    assert all(link.startswith("#") for link in found.loaded)
    assert not found.handlers
    assert not found.tags & {"script", "img", "link", "iframe", "object"}
    assert not re.search(r"url\((?!#|&quot;#)|@import|https?://", whole_page)


def test_ids_are_unique_and_every_reference_has_its_target(whole_page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', whole_page)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'href="#([^"]+)"', whole_page)) | set(re.findall(r"url\(#([^)]+)\)", whole_page))
    assert referred <= set(ids)


@pytest.mark.parametrize(
    "field", ["family", "question", "reference", "text", "tokens", "finish_reason", "reason", "step", "recipe", "argv"]
)
def test_hostile_text_is_escaped_wherever_it_stands(tmp_path: Path, field: str) -> None:
    run = build_run(tmp_path, stages={"reason": "curate", "step": "curate"}.get(field, "eval"))
    hostile = f"\"'>{HOSTILE}</style></main>&lt;\x00\ud800<b>{field}</b>"
    evaluations = [f"eval/{stage}.json" for stage in ("base", "sft", "rl")]
    paths, change = {
        "reason": (["curate/dropped.jsonl"], None),
        "step": (["curate/summary.json"], lambda tree: tree["table"][0].update(step=hostile, reasons={hostile: 2})),
        "recipe": (["recipe.json"], lambda tree: tree.update(name=hostile)),
        "argv": (["attempts.jsonl"], None),
    }.get(field, (evaluations, lambda tree: _spoil(tree, field, hostile)))
    for path in paths:
        if change is None:
            line = {"stage": hostile, "argv": ["h1r", hostile], "commit": hostile, "h1r": hostile}
            _jsonl(run / path, [{"id": hostile, "step": hostile, "reason": hostile, "excerpt": hostile, **line}])
        else:
            tree = json.loads((run / path).read_text(encoding="utf-8"))
            change(tree)
            _json(run / path, tree)
    page = write_report(run).read_text(encoding="utf-8")
    assert (f"&lt;b&gt;{field}&lt;/b&gt;" in page) == (field != "finish_reason")  # which no page shows
    assert not parse(page).tags & {"script", "img"}


def _spoil(tree: dict[str, Any], field: str, hostile: str) -> None:
    for example in tree["examples"]:
        example[field] = [hostile] * len(example["confidences"]) if field == "tokens" else hostile
        if field == "text":
            example["tokens"] = []
    if field == "family":
        tree["per_family"][hostile] = {"pass_at_1": 0.5, "interval": None, "n": 1}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_escaped_text_is_harmless_and_reads_back(text: str) -> None:
    assert not set("<>\"'") & set(esc(text))
    assert html.unescape(esc(text)) == re.sub("[\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)


def test_control_characters_and_lone_surrogates_are_replaced() -> None:
    assert esc("a\x00\x1b\x85\ud800b\r\nc\td") == "a" + 4 * "\N{REPLACEMENT CHARACTER}" + "b\nc\td"


ALL_STAGES = ("curate", "sft", "rl_pool", "rl", "eval", "scaling")


@pytest.mark.parametrize("absent", ALL_STAGES)
def test_absent_stage_is_named_and_the_rest_is_shown(tmp_path: Path, absent: str) -> None:
    run = build_run(tmp_path, stages=" ".join(stage for stage in ALL_STAGES if stage != absent))
    page = write_report(run).read_text(encoding="utf-8")
    missing = json.loads((run / "report.json").read_text(encoding="utf-8"))["missing"]
    assert {Path(file).parent.name for file in missing} == {absent}
    assert all(f"<code>{file}</code>" in page for file in missing)
    parse(page)


def test_run_with_only_a_recipe_still_has_a_report(tmp_path: Path) -> None:
    page = write_report(build_run(tmp_path, stages="")).read_text(encoding="utf-8")
    assert "This run is not complete" in page
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["pass_at_1"]["rl"] is None


def test_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        write_report(tmp_path)


def test_broken_file_is_named_and_the_old_report_stays(tmp_path: Path) -> None:
    run = build_run(tmp_path, stages="eval")
    before = write_report(run).read_bytes()
    _json(run / "eval" / "rl.json", {"pass_at_1": "high"})
    with pytest.raises(UserError, match=r"rl\.json: pass_at_1"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_broken_dropped_line_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    with open(run / "curate" / "dropped.jsonl", "a", encoding="utf-8") as handle:
        handle.write("{torn")
    lines = (run / "curate" / "dropped.jsonl").read_text(encoding="utf-8").count("\n") + 1
    with pytest.raises(UserError, match=f"line {lines}:"):
        collect(run)


def test_same_run_gives_the_same_page(tmp_path: Path, whole: Path) -> None:
    """In another directory and a second time."""
    run = build_run(tmp_path / "run", seed=3)
    assert write_report(run, tmp_path / "report.html").read_bytes() == (whole / "report.html").read_bytes()


def test_torn_and_nonfinite_metrics_leave_the_curve(tmp_path: Path) -> None:
    run = build_run(tmp_path, stages="rl")
    path = run / "rl" / "metrics.jsonl"
    lines = [json.dumps({"step": s, "reward": r}) for s, r in ((0, 0.5), (1, math.nan), (2, math.inf), (3, 0.7))]
    path.write_text("\n".join(lines) + '\n{"step": 4, "rew', encoding="utf-8")
    assert series(collect(run).rl, "reward") == ([0, 3], [0.5, 0.7])
    parse(write_report(run).read_text(encoding="utf-8"))


def test_steps_without_a_group_are_not_called_steps_with_a_bad_gradient(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", stages="rl")
    lines = [
        {"step": step, "reward": 0.5, "groups": 0 if step < 3 else 8, "skipped": int(step == 5)} for step in range(9)
    ]
    _jsonl(run / "rl" / "metrics.jsonl", lines)
    page = write_report(run).read_text(encoding="utf-8")
    assert "3 steps had no group that teaches anything" in page
    assert "1 step skipped" in page


def test_the_table_says_what_the_base_model_was(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    for checkpoint, title in (
        (None, "pass@1 random weights"),
        ("tiiuae/Falcon-H1-0.5B-Base", "pass@1 tiiuae/Falcon-H1-0.5B-Base"),
    ):
        recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        recipe["model"]["checkpoint"] = checkpoint
        _json(run / "recipe.json", recipe)
        table = result_table(summarise(collect(run)))
        assert next(iter(table.columns[0].cells)) == title


def test_nonfinite_numbers_become_null_in_json(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    tree = json.loads((run / "eval" / "rl.json").read_text(encoding="utf-8"))
    _json(run / "eval" / "rl.json", {**tree, "mean_tokens": math.nan})
    numbers = json.dumps(summarise(collect(run)), allow_nan=False)
    assert json.loads(numbers)["mean_tokens"]["rl"] is None


def test_dropped_samples_are_few_of_each_reason(tmp_path: Path) -> None:
    kept: dict[tuple[str, str], int] = {}
    for record in collect(build_run(tmp_path)).dropped:
        kept[record.step, record.reason] = kept.get((record.step, record.reason), 0) + 1
    assert kept["near duplicates", "near duplicate"] == DROPPED_PER_REASON
    assert kept["read", "malformed line"] == 2


def test_kept_share_counts_only_steps_of_one_chain() -> None:
    rows = [("a", "problem", 90, 80), ("b", "trace", 200, 150), ("c", "trace", 150, 100)]
    steps = [FilterStep.model_validate({"step": s, "unit": u, "in": i, "out": o}) for s, u, i, o in rows]
    assert kept_of(steps) == (200, 100)


def test_before_and_after_show_the_same_problem(tmp_path: Path) -> None:
    chosen = choose(collect(build_run(tmp_path)).evals)
    assert {shown.kind for shown in chosen} == {"mended", "kept", "wrong"}
    for shown in chosen:
        assert len({answer.question for answer in shown.answers.values()}) == 1
        assert (shown.answers["sft"].correct, shown.answers["rl"].correct) == {
            "mended": (False, True), "kept": (True, True), "wrong": (False, False)}[shown.kind]  # fmt: skip


def test_examples_of_a_run_without_rl_are_right_and_wrong_ones(tmp_path: Path) -> None:
    evals = collect(build_run(tmp_path)).evals
    chosen = choose({stage: evals[stage] for stage in ("base", "sft")})
    assert [shown.kind for shown in chosen] == ["right"] * 3 + ["missed"] * 3
    assert len({shown.problem.family for shown in chosen}) == len(FAMILIES)


@given(st.floats(-5, 20), st.floats(0.01, 10), st.floats(-50, 50))
def test_shade_deepens_as_confidence_falls(low: float, span: float, confidence: float) -> None:
    scale = Scale(low, low + span)
    assert 0 <= scale.level(confidence) <= scale.level(confidence - span / 10) <= LEVELS - 1
    assert scale.level(low + span) == 0
    assert scale.level(low) == LEVELS - 1


def test_trace_shows_every_token_with_its_confidence() -> None:
    answer = Example(question="q", correct=True, tokens=["a", "", " b<"], confidences=[9.0, 5.0, 1.234])
    assert trace_html(answer, Scale(1.0, 9.0)) == (
        '<div class="trace"><span class="c0" title="9.00 nats">a</span>'
        f'<span class="c{LEVELS - 2}" title="1.23 nats"> b&lt;</span></div>'
    ).replace(f"c{LEVELS - 2}", f"c{Scale(1.0, 9.0).level(1.234)}")


def test_long_trace_says_how_much_it_hides() -> None:
    tokens = [str(k) for k in range(SHOWN_TOKENS + 1234)]
    shown = trace_html(Example(question="q", correct=True, tokens=tokens, confidences=[1.0] * len(tokens)), Scale(0, 2))
    assert shown.count('title="') == SHOWN_TOKENS
    assert "1,234 tokens not shown" in shown
    assert f">{tokens[-1]}<" in shown


@given(st.lists(st.floats(-1e3, 1e3), max_size=40), st.integers(0, 5))
def test_running_mean_is_the_mean_of_the_points_around(values: list[float], half: int) -> None:
    expected = []
    for place in range(len(values)):
        around = [v for k, v in enumerate(values) if abs(k - place) <= half]
        expected.append(math.fsum(around) / len(around))
    assert running_mean(values, 2 * half + 1) == pytest.approx(expected)


def test_running_mean_window_is_odd_for_any_length() -> None:
    assert all(window_for(steps) % 2 == 1 for steps in range(200))


def test_numbers_read_as_people_write_them() -> None:
    assert [percent(0.4172), percent(-0.02, signed=True), percent(math.nan)] == ["41.7%", "−2.0%", "–"]
    assert [count(12345.6), count(1234567), count(None)] == ["12,346", "1.23 million", "–"]
    assert [duration(s) for s in (0.25, 59.6, 754, 3600, 90061)] == ["0.2 s", "1 min", "12 min 34 s", "1 h", "1 d 1 h"]
    assert [size(v) for v in (0, 1, None, math.inf)] == ["0 bytes", "1 byte", "–", "–"]


def test_comparison_has_every_run_and_the_mean_over_them(tmp_path: Path) -> None:
    runs = [build_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b", "c"))]
    tree = json.loads((runs[2] / "eval" / "rl.json").read_text(encoding="utf-8"))
    _json(runs[2] / "eval" / "rl.json", {**tree, "pass_at_1": 0.65})
    page = write_comparison(runs, tmp_path / "all.html").read_text(encoding="utf-8")
    parse(page)
    row = next(row for row in re.findall(r"<tr>.*?</tr>", page) if "<b>mean</b>" in row)
    assert "<b>59.0%</b>" in row
    assert "<b>+17.0 points</b>" in row
    assert [run["seed"] for run in json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))] == [0, 1, 2]
    assert "<code>seed</code>" in page


def test_comparison_of_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two runs or more"):
        write_comparison([build_run(tmp_path)], tmp_path / "all.html")


def test_deviation_is_the_sample_one() -> None:
    assert mean_and_deviation([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    assert mean_and_deviation([4.0]) == (4.0, None)


def test_main_plot_is_saved_as_png_of_readable_width(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    data = save_main_plot(run, tmp_path / "pictures" / "main.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") > 1500
    (run / "scaling" / "result.json").unlink()
    narrow = save_main_plot(run, tmp_path / "half.png").read_bytes()
    assert int.from_bytes(narrow[16:20], "big") < int.from_bytes(data[16:20], "big")


def test_main_plot_of_a_run_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="to plot"):
        save_main_plot(build_run(tmp_path, stages="curate sft"), tmp_path / "main.png")


def test_claims_stay_within_their_intervals(tmp_path: Path) -> None:
    run = build_run(tmp_path, stages="scaling")
    assert "too close to call" in write_report(run).read_text(encoding="utf-8")
    tree = json.loads((run / "scaling" / "result.json").read_text(encoding="utf-8"))
    tree["paired"]["accuracy_interval"] = [0.004, 0.04]
    _json(run / "scaling" / "result.json", tree)
    assert "too close to call" not in write_report(run).read_text(encoding="utf-8")


def test_other_ways_to_spend_the_budget_stand_beside_majority(whole: Path, whole_page: str) -> None:
    table = whole_page[whole_page.index("ways to spend 32 traces") :].partition("</table>")[0]
    names = re.findall(r"<td[^>]*>(short 3|deepconf|majority)</td>", table)
    assert names == ["short 3", "deepconf", "majority"]  # the fewest tokens first
    assert re.search(r"-5\.0 points.*-8\.0% to -2\.0%", table.replace("\N{MINUS SIGN}", "-"))
    summary = json.loads((whole / "report.json").read_text(encoding="utf-8"))
    assert summary["scaling"]["methods"]["short_3"]["paired"]["accuracy_difference"] == -0.05


def test_the_saving_is_split_and_a_cheaper_majority_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path, stages="scaling")
    page = write_report(run).read_text(encoding="utf-8")
    assert "saves 29.2% by ending votes that are decided (consensus) and 9.8% more by ending doubtful traces" in page
    assert "is cheaper here" not in page
    tree = json.loads((run / "scaling" / "result.json").read_text(encoding="utf-8"))
    tree["budgets"][1]["majority"]["accuracy"] = 0.68
    _json(run / "scaling" / "result.json", tree)
    page = write_report(run).read_text(encoding="utf-8")
    assert "A plain majority of 16 is cheaper here</b>: 68.0% right for 155,680 tokens." in page


def test_what_rl_gained_is_told_problem_by_problem(tmp_path: Path) -> None:
    run = build_run(tmp_path, stages="eval scaling")
    for stage, right in (("sft", 4), ("rl", 5)):
        tree = json.loads((run / "eval" / f"{stage}.json").read_text(encoding="utf-8"))
        outcomes = [{"problem_id": f"p{n}", "family": "a", "correct": right + n % 2, "samples": 8} for n in range(100)]
        _json(run / "eval" / f"{stage}.json", {**tree, "pass_at_1": (right + 0.5) / 8, "outcomes": outcomes})
    page = write_report(run).read_text(encoding="utf-8")
    assert "RL changed it by +12.5 points, problem by problem (interval +12.5 to +12.5 points)." in page
    numbers = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert numbers["rl_gain"] == {"value": 0.125, "interval": [0.125, 0.125], "better": 100, "worse": 0, "equal": 0}
    told = str(result_table(numbers).caption)
    assert "RL changes pass@1 by +12.5 points (+12.5 to +12.5, paired by problem)." in told
    assert "At 32 traces DeepConf spends 39.0% fewer tokens: 29.2% by consensus, 9.8% by confidence." in told


def test_report_takes_less_than_ten_seconds(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    start = time.process_time()
    write_report(run)
    assert time.process_time() - start < 10 * slowness()


def test_what_a_place_of_a_plot_says_is_what_was_measured(whole: Path, whole_page: str) -> None:
    told = [html.unescape(one) for one in re.findall(r'class="spot"[^>]*><title>(.*?)</title>', whole_page)]
    assert "all problems, RL: 56.0% (51.0% to 61.0%)" in told
    assert "majority vote of 16: 63.5%, 155,680 tokens" in told
    line = json.loads((whole / "rl" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[7])
    right, formed = percent(line["accuracy"]), percent(line["format"])
    assert f"step 7: correct {right}, well formed {formed}" in told


def test_spots_lie_on_their_points() -> None:
    curve = Curve("loss", "sft", [0, 1, 2], [1.0, 10.0, 100.0])
    svg = to_svg(curve_plot("t", "u", [curve], log=True, smoothing=0), "a plot")
    bands = [
        (float(x), float(w)) for x, w in re.findall(r'<rect class="spot" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    ]
    line = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="[^"]*stroke-width: 2', svg)[-1]
    points = [float(x) for x in re.findall(r"[ML] ([\d.]+)", line)]
    assert len(bands) == len(points) == 3
    assert all(left <= x <= left + width for (left, width), x in zip(bands, points, strict=True))


def test_ticks_are_read_without_an_offset_or_a_power_of_ten_above_the_axis() -> None:
    for values, tick in (([0.9999, 1.0001], "1.00010"), ([1e-6, 2e-5], "0.000020"), ([1.0, 40_000.0], "40k")):
        figure = curve_plot("t", "u", [Curve("loss", "sft", [0, 1], values)], smoothing=0).figure
        figure.canvas.draw()
        axis = figure.axes[0].yaxis
        assert axis.get_offset_text().get_text() == ""
        assert tick in [one.get_text() for one in axis.get_ticklabels()], values


def test_a_table_of_a_list_is_compared_setting_by_setting(tmp_path: Path) -> None:
    reports = []
    for place, share in enumerate((1.0, 2.0)):
        run = build_run(tmp_path / f"run{place}", stages="")
        recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        recipe["corpus"]["sources"] = [{"family": "sums", "share": share, "size": 3}] + [{"family": "words"}] * place
        _json(run / "recipe.json", recipe)
        reports.append(collect(run))
    page = comparison_page(reports)
    assert "<code>corpus.<wbr>sources.<wbr>sums.<wbr>share</code></td><td>1.0</td><td>2.0</td>" in page
    assert "<code>corpus.<wbr>sources.<wbr>words</code></td><td>–</td><td>there</td>" in page
    assert "sums.<wbr>size" not in page
    assert "words.<wbr>family" not in page


def test_the_command_of_a_run_is_one_that_can_be_typed() -> None:
    assert _command(["/x/h1r/__main__.py", "rl", "a run"]) == "python -m h1r rl 'a run'"
    assert _command(["/x/bin/h1r"]) == "h1r"
    assert _command([]) == ""


def test_losses_have_a_log_scale_and_what_stays_the_same_no_axes(whole_page: str) -> None:
    assert "nats per token (log scale)" in whole_page
    assert "The same at every step, so not drawn: SFT gradient norm 0.6." in whole_page
    assert 'aria-label="SFT: SFT gradient norm by step"' not in whole_page


def test_the_loss_of_each_part_of_a_mixture_has_a_curve_where_the_steps_have_it() -> None:
    lines = [{"step": 0, "loss": 2.0, "loss/math": 2.5}, {"step": 1, "loss": 1.0, "loss/math": 1.5, "loss/code": 0.5}]
    _, parts, *_ = _sft_panels(SimpleNamespace(sft=lines))  # type: ignore[arg-type]
    assert [(one.label, one.steps, one.values) for one in parts.curves] == [
        ("math", [0, 1], [2.5, 1.5]),
        ("code", [1], [0.5]),
    ]
    assert len({(one.colour, one.dash) for one in parts.curves}) == 2
    assert not _sft_panels(SimpleNamespace(sft=[{"step": 0, "loss": 2.0}]))[1].curves  # type: ignore[arg-type]


def test_whole_batches_are_counted_at_the_yield_of_each_step() -> None:
    section: dict[str, Any] = {"batch_size": 10, "backfill": {"mode": "backfill", "max_rounds": 3}}
    lines: list[dict[str, float]] = [{"yield": 0.6}, {}, {"yield": 0.2}, {"yield": 0.0}, {"yield": 1.0}, {"yield": 0.5}]
    report: Any = SimpleNamespace(recipe={"rl": section}, rl=lines)
    assert whole_batches(report) == 10 * (2 + 2 + 3 + 3 + 1 + 2)
    section["backfill"] = {"mode": "reject", "max_rounds": 3}
    assert whole_batches(report) is None


@given(st.floats(1e-8, 1e8), st.floats(1.05, 1e6))
def test_a_log_scale_has_round_ticks_inside_its_range(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert len(ticks) >= 2
    assert all(low <= tick <= low * factor for tick in ticks)
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("confidence", "told"),
    [
        ({"auroc": 0.71, "auroc_interval": [0.6, 0.8]}, None),
        ({"auroc": 0.53, "auroc_interval": [0.45, 0.61]}, "53.0% of its pairs with a wrong one (chance: 50%, interval"),
        ({"auroc": 0.44}, "Confidence does not tell right from wrong here"),
        ({"auroc": None}, "Whether confidence tells right from wrong is not known here"),
    ],
)  # fmt: skip
def test_confidence_that_tells_nothing_is_said_so(tmp_path: Path, confidence: dict[str, Any], told: str | None) -> None:
    run = build_run(tmp_path, stages="scaling")
    tree = json.loads((run / "scaling" / "result.json").read_text(encoding="utf-8"))
    _json(run / "scaling" / "result.json", {**tree, "confidence": confidence})
    page = write_report(run).read_text(encoding="utf-8")
    assert (told in page) if told else ("tells right from wrong is not" not in page and "does not tell" not in page)


def test_the_machine_its_versions_and_threads_are_on_the_page(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", Recipe(name="small"))
    with run.timed("sft"):
        torch.set_num_threads(torch.get_num_threads())
    page = html.unescape(write_report(run.path).read_text(encoding="utf-8"))
    told = re.search(r"Measured on (.*?)\.</p>", page)
    assert told
    assert f"python {platform.python_version()}" in told[1]
    assert f"torch {torch.__version__}" in told[1]
    assert f"{plural(torch.get_num_threads(), 'thread')} of torch" in told[1]
    assert plural(len(os.sched_getaffinity(0)), "core") in told[1]


def test_runs_of_different_recipes_have_no_mean(tmp_path: Path) -> None:
    runs = [build_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    recipe = json.loads((runs[1] / "recipe.json").read_text(encoding="utf-8"))
    recipe["rl"]["steps"] += 1
    _json(runs[1] / "recipe.json", recipe)
    page = write_comparison(runs, tmp_path / "all.html").read_text(encoding="utf-8")
    assert "<b>mean</b>" not in page
    assert "no mean" in page
    table = comparison_table([collect(run) for run in runs])
    assert [column.header for column in table.columns] == ["", "a", "b"]
    assert "No mean" in str(table.caption)


def test_runs_are_compared_problem_by_problem_and_their_curves_lie_over_one_another(tmp_path: Path) -> None:
    runs = [build_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    for run, right in zip(runs, (4, 6), strict=True):
        tree = json.loads((run / "eval" / "rl.json").read_text(encoding="utf-8"))
        outcomes = [{"problem_id": f"p{n}", "family": "a", "correct": right, "samples": 8} for n in range(50)]
        _json(run / "eval" / "rl.json", {**tree, "outcomes": outcomes})
    page = write_comparison(runs, tmp_path / "all.html").read_text(encoding="utf-8")
    parse(page)
    paired = page[page.index('id="paired"') :].partition("</table>")[0]
    assert re.search(r"<td>b</td><td>RL</td>.*\+25\.0 points.*>50<.*>0<.*>0<", paired)
    assert re.search(r"<title>step 7: a 0\.\d+, b 0\.\d+</title>", page)
    told = io.StringIO()
    Console(file=told, width=80).print(comparison_table([collect(run) for run in runs]))
    assert "+25.0 points" in " ".join(told.getvalue().split())
    assert "56.0%" in told.getvalue()


def test_every_answer_that_a_run_kept_can_be_read(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", stages="eval")
    tree = json.loads((run / "eval" / "rl.json").read_text(encoding="utf-8"))
    _json(run / "eval" / "rl.json", {**tree, "samples": "rl.1.samples.jsonl"})
    verdict = {"reward": 1.0, "parts": {}, "extracted": "4", "error": None, "reason": None}
    answer = {"problem_id": "p1", "sample": 0, "question": "What?", "text": HOSTILE, "tokens": 3, "verdict": verdict}
    _jsonl(run / "eval" / "rl.1.samples.jsonl", [answer])
    rollout = {"text": "so 4", "reward": 0.5, "parts": {"correct": 1.0, "format": -0.5}}
    told = {
        **rollout,
        "tokens": 3,
        "finish_reason": "length",
        "parts": {"correct": 1.0, "format": -0.0},
    }  # the other is of an earlier version
    group = {"step": 3, "problem_id": "p2", "question": "2 + 2?", "reference": "4", "rollouts": [rollout, told]}
    _jsonl(run / "rl" / "rollouts.jsonl", [group])
    page = write_report(run).read_text(encoding="utf-8")
    assert 'href="samples.html"' in page
    index = (run / "samples" / "index.js").read_text(encoding="utf-8")
    assert [(one["name"], one["answers"]) for one in json.loads(index[10:-3])] == [
        ("held-out problems", 1), ("RL rollouts, a group a step", 2)]  # fmt: skip
    rollouts = json.loads((run / "samples" / "1.js").read_text(encoding="utf-8").partition(", ")[2][:-3])
    assert rollouts["problem"] == ["step 3, p2"] * 2
    assert [rollouts[key] for key in ("reason", "finish", "tokens")] == [["reward 0.5"] * 2, ["", "length"], [None, 3]]
    assert '["Question","2 + 2?"],["Reference","4"]' in (run / "samples" / "1-0.js").read_text(encoding="utf-8")
    assert 'reward 0.5: correct 1, format 0"' in (run / "samples" / "1-0.js").read_text(encoding="utf-8")
    assert "reward 0.5: correct 1, format -0.5" in (run / "samples" / "1-0.js").read_text(encoding="utf-8")
    assert "<" not in (run / "samples" / "0-0.js").read_text(encoding="utf-8")


def test_a_page_elsewhere_leaves_the_files_there_alone(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", stages="eval")
    rollout = {"text": "so 4", "reward": 0.5, "parts": {"correct": 1.0}}
    _jsonl(run / "rl" / "rollouts.jsonl", [{"step": 3, "problem_id": "p2", "rollouts": [rollout]}])
    mine = tmp_path / "out" / "samples" / "index.js"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    write_report(run, tmp_path / "out" / "a b.html")
    write_report(run, tmp_path / "out" / "a b.html")
    assert mine.read_text() == "mine"
    page = (tmp_path / "out" / "a b-samples.html").read_text(encoding="utf-8")
    assert 'src="a%20b-samples/browser.js"' in page
    assert 'href="a%20b.html"' in page


CONTRAST = """[...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() &&
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())).flatMap((one) => {
  const rgba = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
  const light = (colour) => { const [r, g, b] = colour.map((v) => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const chain = []; for (let up = one; up; up = up.parentElement) chain.unshift(up);
  let ground = [255, 255, 255];
  for (const up of chain) ground = over(rgba(getComputedStyle(up).backgroundColor), ground);
  const style = getComputedStyle(one);
  const ink = rgba(one instanceof SVGElement ? style.fill : style.color);
  if (one.closest("title, style, .spot")) return [];
  const [a, b] = [light(over(ink, ground)), light(ground)].sort((p, q) => q - p);
  const ratio = (a + 0.05) / (b + 0.05);
  return ratio < 4.5 ? [`${one.tagName}.${one.className.baseVal ?? one.className} ${ratio.toFixed(2)} ` +
    one.textContent.slice(0, 40)] : [];
})"""
"""What is written in too little contrast to its ground (WCAG 2, AA: 4.5 to 1)."""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_pages_fit_a_phone_and_a_screen_in_both_schemes(tmp_path: Path) -> None:
    """No sideways scroll, a bounded height, legible text, and nothing on the console."""
    runs = [build_run(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    rollout = {"text": HOSTILE, "reward": 0.5, "parts": {"correct": 1.0}}
    _jsonl(runs[0] / "rl" / "rollouts.jsonl", [{"step": 3, "problem_id": "p2", "rollouts": [rollout] * 8}])
    pages = {
        write_report(runs[0]): 9000,
        write_comparison(runs, tmp_path / "all.html"): 4000,
        runs[0] / "samples.html": 3000,
    }
    with opened(tmp_path) as tab:
        for page, tallest in pages.items():
            for width, dark in ((400, False), (400, True), (1280, False), (1280, True)):
                tab.look(width, 900, dark)
                tab.open(page.as_uri())
                tab.wait("document.fonts.status === 'loaded'")
                where = (page.name, width, dark)
                assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, where
                assert tab.evaluate("document.documentElement.scrollHeight") <= tallest, where
                tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
                assert tab.evaluate(CONTRAST) == [], where
                assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, where
                assert tab.evaluate("document.title") != "owned"
        assert tab.complaints == []


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_browser_runs_and_requests_nothing(tmp_path: Path, whole: Path) -> None:
    """The page's own policy refuses every request and script, and a refusal is written to the console."""
    done = browse(whole / "report.html", tmp_path)
    assert "What it learnt from" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert "<title>owned</title>" not in done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_overflows_sideways(tmp_path: Path, whole_page: str, width: int) -> None:
    """Measured in a frame of the given width, with all folds open; tables may scroll within themselves."""
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', whole_page)
    assert policy
    measure = "<script>const r=document.documentElement;parent.postMessage([r.scrollWidth,r.clientWidth],'*')</script>"
    unfolded = whole_page.replace(policy[0], "").replace("<details>", "<details open>")
    framed = unfolded.replace("</body>", measure + "</body>")
    (tmp_path / "framed.html").write_text(framed, encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<script>addEventListener('message',e=>document.title='widths '+e.data.join(' '))</script>"
        f'<iframe src="framed.html" style="width:{width}px;height:900px;border:0"></iframe>',
        encoding="utf-8",
    )
    widths = re.search(r"<title>widths (\d+) (\d+)</title>", browse(outer, tmp_path).stdout)
    assert widths, "the page was not measured"
    assert int(widths[1]) <= int(widths[2])
    assert width - 20 <= int(widths[2]) <= width, "the frame, less its scroll bar"
