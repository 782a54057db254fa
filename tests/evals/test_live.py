"""A run that is watched while it goes on: on a terminal, and in a browser."""

from __future__ import annotations

import fcntl
import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from browser import CHROMIUM, opened
from h1r import pipeline
from h1r.common.files import locked
from h1r.config import ModelSection, Recipe
from h1r.errors import UserError
from h1r.report.live import MOST_GROUPS, MOST_POINTS, live_state
from h1r.report.live_server import _Handler, live_server
from h1r.report.live_view import blocks, training_line, view, whole_line
from h1r.run.directory import Run
from h1r.run.listing import ORDER, PLAN, plan_of

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\x1b]0;owned\x07"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def rl_lines(first: int, last: int) -> str:
    lines = [{"step": step, "time": 1000.0 + 3 * step, "reward": step / 100, "accuracy": 0.5, "mean_tokens": 40.0,
              "entropy": 0.9} for step in range(first, last)]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run whose RL is under way: 40 of 100 steps, 3 s each, its lock held by this process."""
    path = tmp_path / "run"
    recipe: dict[str, Any] = Recipe(name="watched", model=ModelSection(preset="tiny")).model_dump(mode="json")
    recipe["rl"]["steps"] = 100
    write(path / "recipe.json", json.dumps(recipe))
    write(path / "stages.json", json.dumps({"sft": {"wall_seconds": 75.0, "peak_rss_bytes": 1}}))
    write(path / "done" / "sft.json", "{}")
    write(path / "eval" / "base.json", json.dumps({"pass_at_1": 0.0}))
    write(path / "eval" / "sft.json", json.dumps({"pass_at_1": 0.25}))
    sft = [{"step": step, "time": float(step), "loss": 6 / (1 + step)} for step in range(1000)]
    write(path / "sft" / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in sft))
    write(path / "sft" / "steps.json", '{"total": 1000}')
    write(path / "rl" / "metrics.jsonl", rl_lines(0, 40) + '{"step": 40, "rew')
    groups = [{"step": step, "problem_id": f"p{step}", "rollouts": [{"text": HOSTILE, "reward": 0.5, "parts": {}}] * 8}
              for step in range(40)]  # fmt: skip
    write(path / "rl" / "rollouts.jsonl", "".join(json.dumps(group) + "\n" for group in groups) + '{"torn')
    with open(path / ".rl.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def test_the_state_of_a_run_is_that_of_its_files(run: Path) -> None:
    found = live_state(run)
    assert (found["name"], found["state"], found["running"]) == ("watched", "rl runs", True)
    assert found["training"] == {
        "stage": "rl", "step": 40, "total": 100, "seconds_per_step": 3.0, "left_seconds": 180.0}  # fmt: skip
    assert training_line(found["training"]) == "RL: step 40 of 100, 3.0 s a step, about 3 min left"
    assert found["scores"] == {"base": 0.0, "sft": 0.25}
    states = {stage["name"]: (stage["done"], stage["running"], stage["seconds"]) for stage in found["stages"]}
    assert (states["sft"], states["rl"]) == ((True, False, 75.0), (False, True, None))
    loss, reward = found["curves"][:2]
    assert len(loss["values"]) <= MOST_POINTS
    assert loss["values"][0] == pytest.approx((6 + 3 + 2 + 1.5) / 4)
    assert reward["steps"] == list(range(40))
    shown = [group["step"] for group in found["rollouts"]]
    assert (shown[0], shown[-1], len(shown)) == (39, 0, MOST_GROUPS)


def evaluated(run: Path, which: str, seconds: float, tokens: float) -> None:
    """An evaluation of 50 problems, 4 traces each, that is finished and took 2 s to start."""
    found = {"seconds": seconds, "problems": 50, "samples_per_problem": 4, "mean_tokens": tokens}
    write(run / "done" / f"eval_{which}.json", json.dumps(found))
    costs = json.loads((run / "stages.json").read_text())
    write(run / "stages.json", json.dumps(costs | {f"eval_{which}": {"wall_seconds": seconds + 2}}))


def test_the_whole_run_takes_what_its_stages_took_and_nothing_is_said_of_what_is_not_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert live_state(run)["whole"] is None  # `h1r rl` alone
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["rl_pool"] |= {"rollouts": 8, "max_tokens": 25}
    recipe["rl"] |= {"batch_size": 4, "num_generations": 8, "max_tokens": 100}
    recipe["scaling"] |= {"problems": 200, "budgets": [8, 16], "max_tokens": 100}
    write(run / "recipe.json", json.dumps(recipe))
    write(run / "done" / "curate.json", "{}")
    rl_metrics = (run / "rl" / "metrics.jsonl").read_text()
    (run / "rl" / "metrics.jsonl").unlink()

    def told(until: str = "scaling") -> tuple[float | None, list[str], str]:
        with locked(run / PLAN, "", says=until):
            found = live_state(run)["whole"]
        return found["left_seconds"], found["unmeasured"], whole_line(found)

    after = ["eval_base", "eval_sft", "pool", "rl", "eval_rl", "scaling"]
    assert told()[:2] == (None, after)
    assert told()[2] == f"whole run: – left, not measured yet: {', '.join(after)}"
    assert told("eval_sft")[1] == after[:2]

    # 200 traces of 50 tokens in 20 s are 2 ms a token, and 22 s with the start.
    evaluated(run, "base", 20.0, 50.0)
    write(run / "curate" / "problems_rl.jsonl", "{}\n" * 100)
    left, unmeasured, line = told("pool")
    assert (left, unmeasured) == (pytest.approx(22 + 100 * 8 * 25 * 0.002), [])
    assert line == "whole run: about 1 min 2 s left"
    assert told()[:2] == (None, ["rl"])  # nobody knows how fast it trains
    write(run / "rl_pool" / "rollouts.jsonl", "{}\n" * 41)  # the first line is no problem's
    assert told("pool")[0] == pytest.approx(22 + 60 * 8 * 25 * 0.002)

    sft = [{"step": step, "time": float(step), "loss": 1.0, "tokens_per_s": 1.0 if step == 0 else 500.0}
           for step in range(1000)]  # fmt: skip
    write(run / "sft" / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in sft))
    rl = 100 * 4 * 8 * 50 * (0.002 + 1 / 500)
    scaling = 2 * 50 * 16 * 50 * 0.002
    assert told()[0] == pytest.approx(22 + 60 * 8 * 25 * 0.002 + rl + 22 + scaling)

    # The last evaluation counts, and RL's own steps as soon as there are two.
    evaluated(run, "sft", 4.0, 20.0)
    write(run / "done" / "pool.json", "{}")
    write(run / "rl" / "metrics.jsonl", rl_metrics)
    assert told()[:2] == (pytest.approx(60 * 3.0 + 6 + 2 * 50 * 16 * 20 * 0.001), [])
    # The pool's seconds of a trace are better ones, if it ran in one go: 40 problems, 8 traces each, in 16 s.
    costs = json.loads((run / "stages.json").read_text())
    write(run / "stages.json", json.dumps(costs | {"rl_pool": {"wall_seconds": 16.0}}))
    attempt = json.dumps({"stage": "rl_pool", "time": 900.0}) + "\n"
    write(run / "attempts.jsonl", attempt)
    assert told()[0] == pytest.approx(60 * 3.0 + 6 + 2 * 50 * 16 * 0.05)
    write(run / "attempts.jsonl", attempt * 2)
    assert told()[0] == pytest.approx(60 * 3.0 + 6 + 2 * 50 * 16 * 20 * 0.001)

    # A stage that runs has less before it by what it has taken, and is unknown once it takes longer.
    write(run / "done" / "rl.json", "{}")
    write(run / "attempts.jsonl", json.dumps({"stage": "eval_rl", "time": 1000.0}) + "\n")
    with locked(run / ".eval_rl.lock", ""):
        monkeypatch.setattr("time.time", lambda: 1004.0)
        assert told()[0] == pytest.approx(2 + 32)
        monkeypatch.setattr("time.time", lambda: 1007.0)
        assert told()[:2] == (None, ["eval_rl"])


def test_a_command_of_several_stages_says_how_far_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stage(recipe: Recipe, run: Run, resume: bool) -> dict[str, Any]:
        seen.append(plan_of(run.path))
        with pytest.raises(UserError, match="another process runs the stages of"):
            next(pipeline.run_all(recipe, run))
        return {}

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(pipeline.STAGES, stage))
    recipe = Recipe(name="planned", model=ModelSection(preset="tiny"))
    assert [name for name, _, _ in pipeline.run_all(recipe, Run(tmp_path), "sft")] == ["curate", "eval_base", "sft"]
    assert seen == [["curate", "eval_base", "sft"]] * 3
    assert plan_of(tmp_path) == []
    assert list(pipeline.STAGES) == list(ORDER)


def test_a_run_that_has_only_begun_is_shown_too(tmp_path: Path) -> None:
    write(tmp_path / "recipe.json", Recipe(name="young").model_dump_json())
    found = live_state(tmp_path)
    assert (found["state"], found["running"], found["training"]) == ("nothing finished", False, None)
    Console(file=io.StringIO()).print(view(found))
    with pytest.raises(UserError, match="not a run directory"):
        live_state(tmp_path / "nowhere")


def test_the_terminal_shows_it_in_80_columns_and_obeys_no_text_of_the_model(run: Path) -> None:
    told = io.StringIO()
    Console(file=told, width=80, force_terminal=True, color_system=None).print(view(live_state(run)))
    text = told.getvalue()
    assert "watched: rl runs" in text
    assert "RL: step 40 of 100" in text
    assert "▁" in text
    assert "▶ rl" in text
    assert "\x1b]" not in text
    assert "\\x1b]0;owned" in text.replace("\n", "")
    assert max(map(len, text.splitlines())) <= 80


def test_a_curve_of_blocks_goes_from_its_lowest_to_its_highest() -> None:
    assert blocks([0, 1, 2, 3, 4, 5, 6, 7], width=8) == "▁▂▃▄▅▆▇█"
    assert blocks([5.0, 5.0]) == "▁▁"
    assert len(blocks(list(range(1000)))) == 40


@pytest.fixture
def address(run: Path) -> Iterator[tuple[str, int]]:
    with live_server(run, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield str(server.server_address[0]), int(server.server_address[1])
        server.shutdown()
        thread.join()


def asked(address: tuple[str, int], path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(method, path, headers={"Host": host} if host else {})
    reply = connection.getresponse()
    return reply.status, reply.read().decode(), reply.headers.get("Content-Security-Policy", "")


def test_it_answers_on_loopback_to_its_own_name_and_changes_nothing(address: tuple[str, int], run: Path) -> None:
    assert address[0] == "127.0.0.1"
    status, text, policy = asked(address, "/state")
    assert (status, json.loads(text)["training"]["step"]) == (200, 40)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert asked(address, "/state", host="evil.example")[0] == 403
    assert asked(address, "/state", host=f"evil.example:{address[1]}")[0] == 403
    assert asked(address, "/../recipe.json")[0] == 404
    assert asked(address, "/state", method="POST")[0] == 501
    (run / "recipe.json").write_text("{torn")
    status, text, _ = asked(address, "/state")
    assert (status, "recipe.json" in json.loads(text)["error"]) == (500, True)


def test_a_tab_that_was_closed_is_no_error() -> None:
    class Gone(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    handler = object.__new__(_Handler)
    handler.request_version, handler.requestline, handler.wfile = "HTTP/1.1", "GET / HTTP/1.1", Gone()
    handler._reply(200, b"{}", "application/json")


def test_a_taken_port_is_named(address: tuple[str, int], run: Path) -> None:
    with pytest.raises(UserError, match="give another --port"):
        live_server(run, address[1])


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_the_page_follows_the_run_and_shows_its_text_as_text(
    address: tuple[str, int], run: Path, tmp_path: Path
) -> None:
    with opened(tmp_path) as tab:
        tab.look(400, 900, dark=True)
        tab.open(f"http://127.0.0.1:{address[1]}/")
        tab.wait("document.querySelectorAll('#curves svg').length === 5")
        assert "Whole run" not in tab.evaluate("document.getElementById('cards').textContent")
        assert "step 40 of 100" in tab.evaluate("document.getElementById('cards').textContent")
        assert "about 3 min" in tab.evaluate("document.getElementById('cards').textContent")
        assert tab.evaluate("document.querySelector('#rollouts .trace').textContent").startswith("<img src=x")
        assert tab.evaluate("document.querySelectorAll('#rollouts img, #rollouts script').length") == 0
        assert "step 7: 0.07" in tab.evaluate(
            "[...document.querySelectorAll('#curves title')].map((one) => one.textContent)"
        )
        # The newest group is open; what the reader opens stays so in the next drawing.
        is_open = "[...document.querySelectorAll('#rollouts details')].map((one) => one.open)"
        shown = tab.evaluate(is_open)
        assert shown == [True, *[False] * (len(shown) - 1)]
        tab.evaluate("document.querySelectorAll('#rollouts summary')[1].click()")
        for width in (400, 1280):
            tab.look(width, 900)
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        with open(run / "rl" / "metrics.jsonl", "w", encoding="utf-8") as file:
            file.write(rl_lines(0, 50))
        tab.wait("document.getElementById('cards').textContent.includes('step 50 of 100')")
        assert tab.evaluate("document.title") == "watched: rl runs"
        assert tab.evaluate(is_open)[:3] == [True, True, False]
        with locked(run / PLAN, "", says="eval_rl"):
            tab.wait("document.getElementById('cards').textContent.includes('Whole run')")
            assert "– left; not measured yet: curate, eval base, eval sft, pool, eval rl" in tab.evaluate(
                "document.getElementById('cards').innerText.replace(/\\s+/g, ' ')"
            )
        assert tab.complaints == []


def test_a_run_that_stopped_has_no_time_left(run: Path) -> None:
    (run / ".rl.lock").unlink()
    found = live_state(run)
    assert not found["running"]
    assert found["training"]["left_seconds"] is None
    assert training_line(found["training"]) == "RL: step 40 of 100, 3.0 s a step"
