"""What `h1r solve` draws, against the run that it draws."""

import io
import re

import pytest
from rich.console import Console

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.evals.solve_view import LiveView, PlainView, Totals, frame, one_line
from h1r.models import build
from h1r.models.falcon_h1.config import preset
from h1r.records import Problem, Trace
from h1r.scaling.confidence import summarise
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import ScalingRun

PROBLEMS = [Problem(str(k), f"What is {k}\nplus something long " + "x" * 90, "") for k in range(3)]


class Sum:
    """Reads a trace as its token sum modulo three; one in four answers tries to take over the terminal."""

    def decode(self, ids: list[int], **_: object) -> str:
        return rf"\boxed{{{sum(ids) % 3}}}" if sum(ids) % 4 else "\\boxed{\x1b[2Jgone\n}"


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    config = preset(
        "tiny", vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, mamba_d_ssm=64,
        mamba_n_heads=2,
    )  # fmt: skip
    model = build(config, seed=0)
    model.lm_head.weight.data.mul_(30)
    return NativeEngine(model, Sum(), EngineSection(max_sequences=6), eos_token_ids=[3])


def drawn(width: int, height: int, *arguments: object) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(frame(*arguments, width, height, 1.0))  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def frames(engine: NativeEngine, problems: list[Problem], look: object) -> ScalingRun:
    """Solves, and calls `look(run)` between any two steps."""
    sampling = SamplingParams(max_tokens=40, confidence_window=6, confidence_top_k=5)
    params = DeepConf(14, warmup=4, keep_top=0.5, tau=0.9, sampling=sampling)
    run = ScalingRun(engine, [[5 + k, 6, 7] for k in range(len(problems))], params, seeds=[0] * len(problems))
    engine.watch(lambda: look(run))  # type: ignore[operator]
    run.solve()
    engine.watch(None)
    return run


@pytest.mark.parametrize("count", [1, 3])
def test_a_frame_fits_the_terminal(engine: NativeEngine, count: int) -> None:
    steps = 0

    def look(run: ScalingRun) -> None:
        nonlocal steps
        steps += 1
        if steps % 6 == 1:
            for width, height in ((80, 24), (120, 40), (40, 12)):
                lines = drawn(width, height, run, PROBLEMS[:count], Totals(count))
                assert len(lines) <= max(height, 18)
                assert all(len(line) <= width and "\x1b" not in line for line in lines)

    frames(engine, PROBLEMS[:count], look)
    assert steps > 20


def test_a_frame_shows_every_trace_as_it_is(engine: NativeEngine) -> None:
    states: set[str] = set()

    def look(run: ScalingRun) -> None:
        lines = drawn(120, 60, run, PROBLEMS[:1], Totals(1))
        rows = {int(m[1]): m for line in lines if (m := re.match(r" +(\d+) +(\w[\w ]*?) +([\d,]+) +(\d+\.\d+)", line))}
        ballot = run.ballots[0]
        running = {one.sample_index: one for one in run.running()}
        assert rows.keys() == running.keys() | ballot.entries.keys()
        for sample, one in running.items():
            assert rows[sample][2] == "running"
            assert int(rows[sample][3]) == one.num_tokens
            assert rows[sample][4] == f"{one.group_confidence:.3f}"
        for sample, entry in ballot.entries.items():
            assert int(rows[sample][3]) == entry.trace.num_tokens
            assert rows[sample][4] == f"{summarise(entry.trace.confidences, 6).lowest:.3f}"
        states.update(row[2] for row in rows.values())
        spent = ballot.tokens + sum(one.num_tokens for one in running.values())
        assert any(line.startswith(f"tokens  {spent:,}") for line in lines)

    run = frames(engine, PROBLEMS[:1], look)
    assert {"running", "done", "stopped"} <= states
    assert len(run.ballots[0].entries) == 14


def test_running_traces_are_counted_over_the_whole_run(engine: NativeEngine) -> None:
    ended: dict[tuple[int, int], Trace] = {}
    checked = 0

    def look(run: ScalingRun) -> None:
        nonlocal checked
        for one in run.running():
            assert one.sample_index not in run.ballots[one.prompt_index].entries
            assert (one.sample_index < 4) == run.warming_up(one.prompt_index)
            checked += 1

    run = frames(engine, PROBLEMS, look)
    for index, ballot in enumerate(run.ballots):
        ended |= {(index, sample): entry.trace for sample, entry in ballot.entries.items()}
    assert checked > 100
    assert all(key == (trace.prompt_index, trace.sample_index) for key, trace in ended.items())


def test_an_answer_cannot_write_to_the_terminal() -> None:
    assert one_line("\x1b[2J\x07a\nb\u202ec") == "[2J a b c"


def test_frames_are_drawn_a_few_times_a_second_only(engine: NativeEngine) -> None:
    clock = [0.0]
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    view = LiveView(console, clock=lambda: clock[0])
    drawings = 0
    run = ScalingRun(engine, [[5]], DeepConf(4, warmup=4), seeds=[0])
    running = run.running

    def counted() -> list:  # type: ignore[type-arg]
        nonlocal drawings
        drawings += 1
        return running()

    run.running = counted  # type: ignore[method-assign]
    view.begin(run, PROBLEMS[:1], Totals(1))
    for _ in range(1000):
        clock[0] += 0.001
        view.tick()
    assert 3 <= drawings <= 5
    view.close()


def test_off_a_terminal_there_are_lines_with_the_tokens_spent(
    engine: NativeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainView()

    def look(run: ScalingRun) -> None:
        view.begin(run, PROBLEMS[:1], Totals(1)) if not began else None
        began.append(True)
        view.tick()

    began: list[bool] = []
    run = frames(engine, PROBLEMS[:1], look)
    view.tick()
    view.close()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Solve: 14 trace")
    assert f"tokens {run.ballots[0].tokens}" in last
    assert "\x1b" not in last
