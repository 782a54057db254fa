"""What a confined worker still does: every built-in verifier as before, and those of users, which may keep rights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS
from test_worker_isolation import needs_landlock, places, tried

from h1r.records import Problem
from h1r.verify import Verifier, VerifierPool, register
from h1r.verify.workers.isolation import LEVEL_VARIABLE, WorkerIsolation
from h1r.verify.workers.probe import worker_isolation

__all__ = ["places"]  # a fixture


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(time_limit_s=5.0) as pool:
        yield pool


@needs_landlock
def test_the_level_that_the_kernel_can_give_is_the_one_in_force():
    assert worker_isolation() == (WorkerIsolation.LANDLOCK, [])


@needs_landlock
def test_what_scorers_need_still_works(pool, places):
    benign = {
        "a thread": "thread = threading.Thread(target=print); thread.start(); thread.join()",
        "matrices": "import numpy; numpy.linalg.svd(numpy.ones((300, 300)))",
        "a module not imported before": "import wave, xml.dom.minidom",
        "a package not imported before": "import scipy.sparse.linalg",
        "a package's data": "import importlib.metadata; importlib.metadata.version('sympy')",
        "time zones": "import zoneinfo; zoneinfo.ZoneInfo('UTC')",
        "randomness": "secrets.token_hex(); os.urandom(3)",
        "the null device": "open(os.devnull, 'w').write('x')",
        "output nobody reads": "print('x', flush=True); sys.stderr.write('x')",
        "an event loop": "import asyncio; asyncio.run(asyncio.sleep(0))",
        "a timer": "import signal; signal.setitimer(signal.ITIMER_REAL, 100); signal.setitimer(signal.ITIMER_REAL, 0)",
        "a clock": "time.sleep(0.01); time.localtime()",
    }
    verdicts = {name: tried(pool, code, places) for name, code in benign.items()}
    assert {name: verdict.error for name, verdict in verdicts.items() if verdict.reward != 1.0} == {}


@needs_landlock
def test_a_refused_call_names_the_cause_and_costs_no_worker(places):
    owner = Problem("p", "", "", "test-execute-bare", metadata=places)
    with VerifierPool() as pool:
        pool.verify_many([owner], ["pass"])
        workers = pool.worker_pids()
        calls = ["open(secret)", "subprocess.run(['true'])", "socket.socket()"] * 10
        errors = [verdict.error or "" for verdict in pool.verify_many([owner] * 30, calls)]
        assert pool.worker_pids() == workers
    assert all("see `confined` in h1r.verify.registry" in error for error in errors), errors[:3]
    assert "PermissionError" in errors[0]


def write_verifier(folder: Path, name: str, warm: str = "pass", grade: str = "pass") -> Verifier:
    """A verifier in a module of its own, as a user writes one."""
    (folder / f"{name}.py").write_text(
        "import threading, time\nfrom h1r.records import Verdict\nWORDS = []\n"
        f"def warm():\n    {warm}\n\n"
        f"def grade(problem, answer):\n    {grade}\n    return Verdict(1.0, extracted=''.join(WORDS))\n"
    )
    verifier = Verifier(f"test-{name}", f"{name}:grade", warm=f"{name}:warm")
    register(verifier)
    return verifier


@needs_landlock
def test_a_verifier_reads_its_files_before_the_first_answer_or_says_that_it_must_later(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    words = tmp_path / "words.txt"
    words.write_text("words")
    reading = f"WORDS.append(open({str(words)!r}).read())"
    write_verifier(tmp_path, "h1r_reads_early", warm=reading)
    late = write_verifier(tmp_path, "h1r_reads_late", grade=reading)
    register(Verifier("test-free", late.grade, warm=late.warm, confined=False))
    names = ("test-h1r_reads_early", "test-h1r_reads_late", "test-free")
    with VerifierPool() as pool:
        early, refused, free = pool.verify_many([Problem("p", "", "", name) for name in names], ["x"] * 3)
    assert (early.reward, early.extracted) == (1.0, "words")
    assert refused.reward == 0.0
    assert "PermissionError" in (refused.error or "")
    assert (free.reward, free.extracted) == (1.0, "words")


@needs_landlock
def test_a_pool_with_several_verifiers_settles_on_workers_that_have_them_all(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write_verifier(tmp_path, "h1r_first")
    second = write_verifier(tmp_path, "h1r_second")
    register(Verifier("test-h1r_third", second.grade, confined=False))
    work = [Problem("p", "", "", f"test-h1r_{name}") for name in ("first", "second", "third")]
    with VerifierPool() as pool:
        pool.verify_many(work, ["x"] * 3)
        workers = pool.worker_pids()
        assert len(workers) == 2
        verdicts = pool.verify_many(work * 20, ["x"] * 60)
        assert pool.worker_pids() == workers
    assert all(verdict.reward == 1.0 for verdict in verdicts)


@needs_landlock
def test_a_verifier_that_no_longer_loads_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = str(tmp_path / "mark")
    write_verifier(
        tmp_path, "h1r_once", warm=f"import os; os.path.exists({mark!r}) and os._exit(1); os.mkdir({mark!r})"
    )
    write_verifier(tmp_path, "h1r_later")
    work = [Problem("p", "", "", f"test-h1r_{name}") for name in ("once", "later", "later")]
    with VerifierPool() as pool:
        verdicts = pool.verify_many(work, ["x"] * 3)
    assert [verdict.reward for verdict in verdicts] == [1.0] * 3


@needs_landlock
@pytest.mark.parametrize(("keeps_state", "level"), [(False, "landlock"), (True, "calls")])
def test_threads_that_a_verifier_starts_lower_the_level_only_where_it_grades_beside_them(
    keeps_state, level, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    warm = "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    name = f"h1r_threads_{level}"
    verifier = write_verifier(tmp_path, name, warm=warm, grade="open('/tmp/h1r-x', 'w')")
    register(Verifier(verifier.name, verifier.grade, warm=verifier.warm, keeps_state=keeps_state))
    with VerifierPool() as pool:
        (verdict,) = pool.verify_many([Problem("p", "", "", verifier.name)], ["x"])
        assert pool.isolation == WorkerIsolation(level)
    assert "PermissionError" in (verdict.error or "")


def everyday_work() -> Iterator[tuple[Problem, str]]:
    """Right and wrong answers for every built-in verifier that grades here or in a worker, families apart."""
    mathematics = {
        r"\int_0^1 x dx": r"\int_0^1 y dy", r"\sum_{k=1}^{10} k": "55", r"\frac{1}{7}": "1/7", "x+1": "1+x",
        r"\lim_{n \to \infty} \frac{1}{n}": "0",
        r"\begin{pmatrix}1 & 2\end{pmatrix}": r"\begin{bmatrix}1 & 2\end{bmatrix}",
        r"\prod_{k=1}^{4} k": "23", "[0, 1)": "(0, 1]",
    }  # fmt: skip
    for reference, answer in mathematics.items():
        for verifier in ("math", "math_lenient", "exact"):
            yield Problem("m", "", reference, verifier), rf"<think>hm</think>\boxed{{{answer}}}"
    yield Problem("c", "", "C", "choice"), "Answer: C"
    instructions = [
        (
            "language:response_language",
            {"language": "de"},
            "Das ist eine Antwort in deutscher Sprache, wie es sein soll.",
        ),
        ("language:response_language", {"language": "de"}, "This is an answer in English, as it should not be."),
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "Dr. No came. He left."),
        ("change_case:english_capital", {}, "ALL OF THIS IS IN CAPITAL LETTERS."),
        ("detectable_format:json_format", {}, '{"a": 1}'),
    ]
    for name, arguments, answer in instructions:
        for verifier in ("instructions", "instructions_loose"):
            metadata = {"instruction_id_list": [name], "kwargs": [arguments]}
            yield Problem("i", "Write.", "", verifier, metadata=metadata), answer


def work_of(families: Iterable[str]) -> Iterator[tuple[Problem, str]]:
    """A right and two wrong answers for each family."""
    for family in families:
        item = json.loads(json.dumps(reasoning_gym.create_dataset(family, size=1, seed=7)[0], default=str))
        owner = Problem(family, item["question"], str(item["answer"]), "reasoning_gym", metadata={"entry": item})
        for answer in (item["answer"], f"{item['answer']} no", "5"):
            yield owner, rf"\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def free() -> Iterator[VerifierPool]:
    """Whose workers have their limits alone."""
    with VerifierPool() as free:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(LEVEL_VARIABLE, "rlimits")
            problem, answer = next(everyday_work())
            free.verify_many([problem], [answer])
        yield free


@needs_landlock
@pytest.mark.parametrize("part", ["some families", pytest.param("all others", marks=pytest.mark.slow)])
def test_every_verifier_says_the_same_confined_and_not(part, pool, free):
    families = sorted(set(DATASETS) - {"composite"})
    few = set(families[::9])
    if part == "some families":
        work, least = [*everyday_work(), *work_of(sorted(few))], 28
    else:
        work, least = list(work_of(sorted(set(families) - few))), 70
    owners, texts = zip(*work, strict=True)
    expected, found = free.verify_many(owners, texts), pool.verify_many(owners, texts)
    assert (free.isolation, pool.isolation) == ("rlimits", "landlock")
    differ = [(owner.id, one, two) for owner, one, two in zip(owners, expected, found, strict=True) if one != two]
    assert differ == []
    assert sum(verdict.reward for verdict in found) > least
