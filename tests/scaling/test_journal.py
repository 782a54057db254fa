"""A run over a journal, killed anywhere and started again, against an unbroken one."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lockstep import STRIDE, LockstepEngine, Scripted, cases, deepconf, extract, groups

from h1r.common.lines import LineFile
from h1r.errors import UserError
from h1r.scaling.deepconf import solve_many
from h1r.scaling.journal import Journal


class KilledError(Exception):
    pass


class Mortal(LockstepEngine):
    """Dies before it has ended its trace number `left`, counted from 0."""

    left = None

    def trace(self, request, reason):
        if self.left is not None:
            if self.left == 0:
                raise KilledError
            self.left -= 1
        return super().trace(request, reason)


def run(engine, problems, params, path):
    with Journal(engine, path) as journal:
        return solve_many(
            journal, [[i] for i in range(len(problems))], params,
            seeds=[i * STRIDE for i in range(len(problems))], extract=extract, groups=groups(len(problems)),
        )  # fmt: skip


def solved(problems, params, path, slots, left=None):
    engine = Mortal(problems, slots)
    engine.left = left
    return run(engine, problems, params, path), engine


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cases(problems=2), st.sampled_from([None, 2, 5]), st.integers(0, 12))
def test_a_killed_run_with_a_fixed_budget_ends_as_an_unbroken_one(tmp_path, case, slots, left):
    problems, params = case
    params = dataclasses.replace(params, tau=None)
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    whole, unbroken = solved(problems, params, tmp_path / "unused", slots)
    (tmp_path / "unused").unlink()
    try:
        solved(problems, params, path, slots, left)
    except KilledError:
        kept = len(path.read_bytes().splitlines())
        assert kept == left  # every trace that had ended
    again, engine = solved(problems, params, path, slots)
    assert [s.to_dict() for s in again] == [s.to_dict() for s in whole]
    assert [s.traces for s in again] == [s.traces for s in whole]
    if left:
        assert engine.generated < unbroken.generated


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cases(problems=2), st.sampled_from([None, 2, 5]))
def test_a_finished_run_is_read_from_the_journal_alone(tmp_path, case, slots):
    problems, params = case
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    whole, _ = solved(problems, params, path, slots)
    again, engine = solved(problems, params, path, slots)
    assert engine.generated == 0
    assert [s.to_dict() for s in again] == [s.to_dict() for s in whole]
    assert [s.traces for s in again] == [s.traces for s in whole]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cases(problems=2), st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_a_run_killed_again_and_again_counts_each_trace_once(tmp_path, case, kills):
    problems, params = case
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    for left in kills:
        try:
            solved(problems, params, path, 3, left)
        except KilledError:
            continue
    solutions, _ = solved(problems, params, path, 3)
    for problem, solution in zip(problems, solutions, strict=True):
        indices = [trace.sample_index for trace in solution.traces]
        assert indices == sorted(set(indices))
        if params.tau is None:
            assert indices == list(range(params.budget))
        for trace in solution.traces:
            assert trace.confidences == problem[trace.sample_index].confidences[: trace.num_tokens]


def test_a_journal_of_other_settings_is_not_mistaken_for_these(tmp_path):
    problem = [Scripted([5.0] * 4)] * 6
    solved([problem], deepconf(6, window=2), tmp_path / "journal", None)
    _, engine = solved([problem], deepconf(6, window=4), tmp_path / "journal", None)
    assert engine.generated == 24


def test_forgetting_empties_the_file(tmp_path):
    problem = [Scripted([5.0] * 4)] * 2
    with Journal(LockstepEngine([problem]), tmp_path / "journal") as journal:
        solve_many(journal, [[0]], deepconf(2), seeds=[0], extract=extract, groups=groups(1))
        assert (tmp_path / "journal").stat().st_size > 0
        journal.forget()
        assert (tmp_path / "journal").stat().st_size == 0


def test_a_line_that_a_kill_cut_short_is_removed_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nthr")
    file = LineFile(path)
    assert list(file.lines()) == ["one", "two"]
    file.append(["three", "four"])
    file.close()
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_a_line_longer_than_a_block_is_found_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    long = "x" * 200_000
    path.write_text(f"one\n{long}\n{long}")
    file = LineFile(path)
    assert list(file.lines()) == ["one", long]
    file.close()


def test_text_with_line_breaks_of_unicode_is_read_back(tmp_path: Path) -> None:
    """A model says what it likes; JSON leaves these characters as they are."""
    breaks = "a\u2028b\u2029c\x85d\x0be\x1cf\rg"
    file = LineFile(tmp_path / "lines")
    file.append([json.dumps(breaks, ensure_ascii=False)])
    assert [json.loads(line) for line in file.lines()] == [breaks]
    file.close()


def test_a_file_is_held_by_one_process(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    with pytest.raises(UserError, match="being written by another process"):
        LineFile(tmp_path / "lines")
    file.close()
    LineFile(tmp_path / "lines").close()
