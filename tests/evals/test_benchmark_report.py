"""Benchmarks on the pages of one run and of two, and the page of their answers in a browser."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from browser import CHROMIUM, browse, opened
from h1r.cli import main
from h1r.config import ModelSection, Recipe
from h1r.evals.summary import benchmark_tables
from h1r.report import collect, summarise, write_comparison, write_report
from h1r.report.benchmarks import by_name, difference, read_benchmarks
from h1r.report.samples import AnswerSet, write_browser
from h1r.run.names import checkpoint_name

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> \u2028 \ud800 __proto__"


def sample(problem: int, number: int, right: bool, text: str = "So it is 4.") -> dict[str, Any]:
    return {
        "problem": problem, "sample": number, "problem_id": f"p{problem:05}", "question": f"Question {problem}",
        "reference": "4", "text": f"<think>two and two</think>{text}", "tokens": 7, "finish_reason": "stop",
        "seed": 1, "error": None, "reward": None, "token_ids": "", "confidences": "",
        "verdict": {"reward": float(right), "parts": {}, "extracted": "4", "error": None,
                    "reason": None if right else "wrong"},
    }  # fmt: skip


def build(path: Path, right: list[int], names: tuple[str, ...] = ("letters",), problems: str = "same") -> Path:
    """A run that only evaluated a model of an API: two answers a problem, `right` of them right."""
    recipe = Recipe(name=path.name, model=ModelSection(preset="tiny"))
    tree = recipe.model_dump(mode="json")
    tree["engine"]["endpoint"]["prices"] = {"adder": {"prompt": 1.0, "completion": 2.0}}
    tree["eval"]["benchmarks"] = [{"name": name, "kind": "jsonl", "path": "x"} for name in names]
    place = path / "eval" / "benchmarks" / "base"
    place.mkdir(parents=True)
    (path / "recipe.json").write_text(json.dumps(tree))
    outcomes = [{"problem_id": f"p{n}", "family": "f", "correct": c, "samples": 2} for n, c in enumerate(right)]
    score = sum(right) / len(right) / 2
    result = {
        "pass_at_1": score, "interval": [score - 0.1, score + 0.1], "pass_at_k": {"1": score, "2": 0.75},
        "per_repeat": [0.25, 0.5], "cons_at_n": 0.625, "mean_tokens": 50.0, "truncated": 0.125, "no_answer": 0.0625,
        "unscored": 0.03125, "error": 0.0, "samples_per_problem": 2, "problems": len(right), "seconds": 61.0,
        "usage": {"prompt_tokens": 10**6, "completion_tokens": 10**6, "reasoning_tokens": 500_000, "cached_tokens": 0},
        "room": {"max_tokens": 500, "lowered": 0, "least": 0, "none": 1},
        "outcomes": outcomes, "samples": "letters.0.samples.jsonl",
        "of": {"problems": problems, "engine": {"kind": "endpoint", "model": "adder"}},
    }  # fmt: skip
    for name in names:
        (place / f"{name}.json").write_text(json.dumps(result))
    rows = [
        sample(n, s, s < count, HOSTILE if n == 0 else "So it is 4.") for n, count in enumerate(right) for s in (0, 1)
    ]
    (place / "letters.0.samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_checkpoint_that_was_named_is_called_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint_name("/home/me/runs/demo/rl/model") == "demo/rl/model"
    assert [checkpoint_name(one) for one in ("owner/name", "model", "/", "h1r:small")] == [
        "owner/name", "model", "/", "h1r:small",
    ]  # fmt: skip
    checkpoint, name = "/usr/lib/python3.13/site-packages/h1r/models/shipped/small", "h1r:small"
    run = build(tmp_path / "run", [2, 1])
    tree = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**tree, "model": {"checkpoint": checkpoint}}))
    path = run / "eval" / "benchmarks" / "base" / "letters.json"
    result = {**json.loads(path.read_text()), "of": {"engine": {"kind": "native"}}}
    path.write_text(json.dumps(result))
    page = write_report(run).read_text(encoding="utf-8")
    assert f"<td>letters</td><td>{name}</td>" in page
    assert "base" not in page[page.index('id="benchmarks"') : page.index('id="repeat"')]
    assert json.loads((run / "report.json").read_text())["benchmarks"][0]["model"] == name
    assert f'"model":"{name}"' in (run / "samples" / "index.js").read_text()
    recipe = Recipe(name="run", model=ModelSection(checkpoint=checkpoint))
    assert f"model: {name}" in shown(benchmark_tables({"eval_base": {"benchmarks": {"letters": RESULT}}}, recipe))
    with pytest.raises(SystemExit, match="0"):
        main(["ls", str(tmp_path)])
    assert f"{name}: letters 75.0%" in capsys.readouterr().out


def test_each_benchmark_is_a_row_with_its_numbers_and_the_run_lacks_nothing(tmp_path: Path) -> None:
    names = tuple(f"bench{n:02}" for n in range(17))
    run = build(tmp_path / "run", [2, 1, 0, 1], names)
    page = write_report(run).read_text(encoding="utf-8")
    first = page[page.index('id="benchmarks"') :]
    rows = re.findall(r"<tr><td>(bench\d\d)</td>(.*?)</tr>", first[: first.index("What the scores do not say")])
    assert [name for name, _ in rows] == list(names)
    for shown in ("50.0%", "40.0% to 60.0%", "25.0%, 50.0%", "62.5%", "75.0%", "4 x 2"):
        assert shown in rows[0][1]
    for shown in ("6.2%", "12.5%", "3.1%", "3 USD", "1 min 1 s", "adder"):
        assert shown in first
    assert "bench00, adder, of 4 prompts 1 left no room for an answer" in page
    assert "not complete" not in page
    numbers = json.loads((run / "report.json").read_text())["benchmarks"]
    assert len(numbers) == 17
    assert (numbers[0]["per_repeat"], numbers[0]["cost"]) == ([0.25, 0.5], {"amount": 3.0, "currency": "USD"})


def test_the_models_of_a_run_are_compared_problem_by_problem_and_what_is_left_out_has_a_share(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [2, 1, 0, 1])
    assert "The models of this run" not in write_report(run).read_text(encoding="utf-8")
    base = json.loads((run / "eval/benchmarks/base/letters.json").read_text())
    better = [{**one, "correct": 2} for one in base["outcomes"]]
    place = run / "eval/benchmarks/rl"
    place.mkdir()
    trained = {**base, "pass_at_1": 1.0, "outcomes": better, "ungradable": 1, "of": {"problems": "same", "engine": {}}}
    (place / "letters.json").write_text(json.dumps(trained))
    page = write_report(run).read_text(encoding="utf-8")
    models = page[page.index("The models of this run") :].partition("</table>")[0]
    assert re.search(r"<td>letters</td>.*50\.0%.*100\.0%.*\+50\.0 points", models)
    assert ">rl minus adder<" in models
    assert ">1 (20.0%)<" in page
    (place / "letters.json").write_text(json.dumps({**trained, "of": {"problems": "others", "engine": {}}}))
    page = write_report(run).read_text(encoding="utf-8")
    assert "points" not in page[page.index("The models of this run") :].partition("</table>")[0]


def shown(tables: list[Any]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*tables)
    return console.export_text()


RESULT = {
    "pass_at_1": 0.5, "interval": [0.25, 0.75], "cons_at_n": None, "problems": 30, "samples_per_problem": 4,
    "mean_tokens": 12345.0, "truncated": 0.0, "no_answer": 0.25, "unscored": 0.0, "error": 0.0, "usage": None,
}  # fmt: skip
PLAIN = Recipe(name="r", model=ModelSection(preset="tiny"))


def test_what_curation_dropped_for_a_benchmark_stands_beside_its_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tmp_path / "run", [1], ("letters", "other"))
    head = "training problems dropped for it"
    assert head not in write_report(run).read_text(encoding="utf-8")
    (run / "curate").mkdir()
    known = {"held_out": 30, "held_out_hit": 5, "exact": 1200, "contained": 30, "ngram": 4, "total": 1234}
    contamination = {"sft": {"letters": known, "else": known}, "rl": {"letters": {**known, "total": 5}}}
    (run / "curate" / "summary.json").write_text(json.dumps({"contamination": contamination}))
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count(head) == 1
    first = page[page.index('id="benchmarks"') : page.index("What the scores do not say")]
    last = [re.findall(r"<td[^>]*>(.*?)</td>", row)[-1] for row in re.findall(r"<tr>(<td.*?)</tr>", first)]
    assert last == ["1,239", "–"]
    rows = json.loads((run / "report.json").read_text())["benchmarks"]
    assert {use: one["total"] for use, one in rows[0]["overlap"].items()} == {"sft": 1234, "rl": 5}
    assert rows[1]["overlap"] is None
    tables = benchmark_tables({"eval_base": {"benchmarks": {"letters": RESULT, "other": RESULT}}}, PLAIN, contamination)
    assert re.search(r"^ *letters .* 1,239 *$", shown(tables), re.M)
    assert re.search(r"^ *other .* 25\.0% *$", shown(tables), re.M)
    assert "dropped" not in shown(benchmark_tables({"eval_base": {"benchmarks": {"letters": RESULT}}}, PLAIN))
    monkeypatch.setenv("COLUMNS", "150")
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(run)])
    assert "1,239" in capsys.readouterr().out


VOTES = {
    "method": "deepconf", "lacks": [], "settings": {"warmup": 16},
    "rows": [
        {"budget": 1, "majority": {"accuracy": 0.5, "interval": [0.4, 0.6], "tokens": 1.25e6}, "deepconf": None},
        {"budget": 512, "majority": {"accuracy": 0.9, "interval": [0.8, 0.95], "tokens": 640e6},
         "deepconf": {"accuracy": 0.967, "interval": [0.9, 0.99], "tokens": 89.8e6}},
    ],
}  # fmt: skip
BARE = {**VOTES, "lacks": ["confidences"], "rows": VOTES["rows"][:1]}


def test_votes_at_budgets_are_accuracy_and_million_tokens_beside_pass_at_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tmp_path / "run", [2, 1], ("letters", "sums", "alone"))
    assert "Votes at budgets" not in write_report(run).read_text(encoding="utf-8")
    for name, votes in (("letters", VOTES), ("sums", BARE)):
        path = run / "eval" / "benchmarks" / "base" / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "budgets": votes}))
    page = write_report(run).read_text(encoding="utf-8")
    page = page[page.index("Votes at budgets") : page.index("What the scores do not say")]
    cells = [re.sub(r"<[^>]+>", "", row).replace(" ", "") for row in re.findall(r"<tr>(<td.*?)</tr>", page)]
    assert cells == [
        "lettersadder75.0%150.0%(40.0%to60.0%)1.25M–––",
        "lettersadder75.0%51290.0%(80.0%to95.0%)640M96.7%(90.0%to99.0%)89.8M86.0%",
        "sumsadder75.0%150.0%(40.0%to60.0%)1.25M–––",
    ]
    assert "DeepConf needs: sums, adder (confidences)." in page
    rows = {one["name"]: one for one in json.loads((run / "report.json").read_text())["benchmarks"]}
    assert rows["letters"]["budgets"]["rows"] == VOTES["rows"]
    assert rows["alone"]["budgets"] is None
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(run)])
    said = capsys.readouterr().out
    assert re.search(r"letters +512 +majority +90\.0% +80\.0 to 95\.0 +640 M\s*\n", said)
    assert re.search(r"letters +512 +DeepConf +96\.7% +90\.0 to 99\.0 +89\.8 M\s*\n", said)
    assert re.search(r"sums +1 +majority +50\.0%", said)
    assert not re.search(r"sums +1 +DeepConf", said)
    assert "majority alone where answers carry no confidences, which DeepConf needs" in " ".join(said.split())
    assert "alone     " not in said.partition("traces")[2]


def test_a_calibration_error_is_told_where_there_is_one(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [1], ("letters", "HLE"))
    assert "Calibration error" not in write_report(run).read_text(encoding="utf-8")
    path = run / "eval" / "benchmarks" / "base" / "HLE.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration_error": 0.4567}))
    assert "that answers state: HLE, adder: 45.7%." in write_report(run).read_text(encoding="utf-8")


def test_a_run_that_also_trains_says_what_it_lacks(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [1])
    (run / "sft").mkdir()
    assert "not complete" in write_report(run).read_text(encoding="utf-8")


def test_three_runs_fit_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [build(tmp_path / name, right) for name, right in (("one", [0, 1]), ("other", [1, 2]), ("third", [2, 2]))]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["report", *map(str, runs)])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert re.search(r"minus one", said)
    for name in ("one", "other", "third"):
        assert re.search(rf"\b{name} +\d+\.\d%", said), said


def test_two_runs_differ_by_their_answers_to_the_same_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = build(tmp_path / "one", [0, 1, 2, 0]), build(tmp_path / "other", [1, 2, 2, 1])
    strange = build(tmp_path / "strange", [1, 1, 1, 1], problems="others")
    found = [by_name(read_benchmarks(run, {}))["letters", "base"] for run in (one, other, strange)]
    paired = difference(found[0], found[1])
    assert paired is not None
    assert (paired.value, paired.problems) == (pytest.approx(3 / 8), 4)
    assert paired.interval[0] <= 3 / 8 <= paired.interval[1]
    assert difference(found[0], found[2]) is None
    assert difference(found[0], None) is None
    page = write_comparison([one, other], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "+37.5 points" in page
    assert "other minus one" in page
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(tmp_path / "one"), str(other), str(strange), "--out", str(tmp_path / "all.html")])
    said = capsys.readouterr().out
    assert re.search(r"letters +one +37\.5% *\n", said)
    (row,) = re.findall(r" other +75\.0% +(\S+) points *\n +(\S+) to (\S+) points *\n", said)
    assert re.search(r" strange +50\.0% *\n", said)
    low, high = paired.interval
    assert [float(number) for number in row] == pytest.approx([37.5, 100 * low, 100 * high], abs=0.05)
    assert "minus one" in said


def test_answers_are_in_files_of_bounded_size_and_those_of_before_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h1r.report.samples.CHUNK_BYTES", 200)
    run = build(tmp_path / "run", [1] * 30)
    write_report(run)
    (run / "samples" / "9.js").write_text("old")
    write_report(run)
    files = sorted(file.name for file in (run / "samples").iterdir())
    assert "9.js" not in files
    assert len([name for name in files if name.startswith("0-")]) > 5
    rows = [json.loads(re.sub(r"^h1r.texts\(\d+, \d+, |\);\n$", "", (run / "samples" / name).read_text("utf-8")))
            for name in files if name.startswith("0-")]  # fmt: skip
    assert sum(map(len, rows)) == 60
    assert not any("<" in (run / "samples" / name).read_text("utf-8") for name in files if name != "browser.js")


def test_memory_does_not_grow_with_the_answers_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("report.samples.CHUNK_BYTES", "common.reading.BLOCK_BYTES"):
        monkeypatch.setattr(f"h1r.{bound}", 1 << 14)

    def peak(answers: int) -> int:
        file = tmp_path / f"{answers}.samples.jsonl"
        file.write_text("".join(json.dumps(sample(n, 0, True)) + "\n" for n in range(answers)))
        tracemalloc.start()
        try:
            one = AnswerSet("letters", "base", file)
            assert write_browser(tmp_path / f"{answers}.html", Path("report.html"), "run", [one])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)  # what is imported and cached once
    few, many = peak(500), peak(4000)
    assert many < few + 400_000, "with a row of each in memory it was 1.4 MB more"
    listed = (tmp_path / "4000" / "0.js").read_text("utf-8")
    columns = json.loads(listed.removeprefix("h1r.list(0, ").removesuffix(");\n"))
    assert {key: len(column) for key, column in columns.items() if key != "chunks"} == dict.fromkeys(
        ("problem", "sample", "verdict", "reason", "finish", "tokens"), 4000
    )
    assert columns["problem"][-1] == "p03999"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_answers_are_listed_and_read_in_a_browser_and_none_of_them_runs(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [1] * 120)
    write_report(run)
    done = browse(run / "samples.html", tmp_path, "#0/0", budget_ms=8000)
    assert "CONSOLE" not in done.stderr
    assert "240 of 240 answers, page 1 of 3" in done.stdout
    assert done.stdout.count("<tr>") == 1 + 100
    assert "owned'" in done.stdout
    assert "<title>owned" not in done.stdout
    assert "&lt;img src=x" in done.stdout
    assert "two and two" in done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_answers_are_filtered_by_benchmark_verdict_end_and_problem(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [1] * 12, ("letters", "sums"))
    place = run / "eval" / "benchmarks" / "base"
    result = json.loads((place / "sums.json").read_text(encoding="utf-8"))
    (place / "sums.json").write_text(json.dumps({**result, "samples": "sums.0.samples.jsonl"}), encoding="utf-8")
    rows = [sample(n, 0, True) for n in range(3)]
    (place / "sums.0.samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_report(run)
    script = run / "samples" / "browser.js"
    script.write_text(
        script.read_text(encoding="utf-8")
        + """addEventListener("DOMContentLoaded", () => setTimeout(() => {
          const set = (id, value, kind) => {
            const one = document.getElementById(id); one.value = value; one.dispatchEvent(new Event(kind));
            return document.getElementById("state").textContent;
          };
          const states = [set("verdict", "wrong", "change"), set("problem", "p00003", "input"),
                          set("finish", "stop", "change"), set("verdict", "not scored", "change")];
          set("verdict", "right", "change");
          set("problem", "", "input");
          const sums = [...document.getElementById("set").options].find((one) => one.text.includes("sums"));
          set("set", sums.value, "change");  // its list is read now
          setTimeout(() => {
            states.push(document.getElementById("state").textContent, set("verdict", "wrong", "change"));
            document.title = states.map((text) => text.split(" ", 3)[0]).join(" ") + " of " + states[4].split(" ")[2];
          }, 1000);
        }, 1000));""",
        encoding="utf-8",
    )
    assert "<title>12 1 1 0 3 0 of 3</title>" in browse(run / "samples.html", tmp_path, budget_ms=8000).stdout


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_page_of_fifty_thousand_answers_reads_its_list_alone(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [1] * 25_000)
    write_report(run)
    read = ["samples.html", "samples/browser.js", "samples/index.js", "samples/0.js"]
    assert sum((run / name).stat().st_size for name in read) < 4 << 20
    with opened(tmp_path) as page:
        page.open((run / "samples.html").as_uri())
        page.wait("document.getElementById('state').textContent.startsWith('50,000 of 50,000 answers, page 1 of 500')")
        seconds = page.evaluate("performance.now()") / 1000  # since the browser went there
        assert page.complaints == []
    print(f"open after {seconds:.2f} s")
    assert seconds < 10, "an idle machine takes less than one"


def test_numbers_of_a_run_without_benchmarks_are_an_empty_list(tmp_path: Path) -> None:
    run = build(tmp_path / "run", [1], names=())
    assert summarise(collect(run))["benchmarks"] == []
    assert not (run / "samples.html").exists()


def test_the_table_of_benchmarks_fits_a_terminal_and_leaves_out_what_nobody_says() -> None:
    results = {"eval_base": {"benchmarks": {"comp-math-24-25": RESULT, "MMLU-Pro-sample": RESULT}}}
    text = shown(benchmark_tables(results, PLAIN))
    assert "…" not in text
    assert "25.0 to 75.0" in text
    assert "no answer" in text
    assert not any(column in text for column in ("cons@n", "cut off", "cost", "unscored"))


def test_report_prints_the_table_of_a_run_that_has_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tmp_path / "run", [1, 0, 2])
    for width in ("120", "80"):
        monkeypatch.setenv("COLUMNS", width)
        with pytest.raises(SystemExit, match="0"):
            main(["report", str(run)])
        said = capsys.readouterr().out
        assert re.search(r"letters +50\.0% ", said)
        assert "…" not in said  # nothing is cut, with every column there
