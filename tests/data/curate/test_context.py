"""Verification in curation goes the way of every other stage: by the recipe's `[verify]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from h1r.common.files import write_json
from h1r.config import Recipe
from h1r.data.curate import context
from h1r.records import Problem
from h1r.verify import Verifier, VerifierPool, register

TWO = Problem("p", "1 + 1?", "2", "math")


def recipe(verify: dict[str, Any], **corpus: Any) -> Recipe:
    return Recipe.model_validate({"name": "t", "verify": verify, "corpus": corpus})


def opened(work: Path, found: Recipe) -> context.Context:
    write_json(work / "recipe.json", found.model_dump(mode="json"))
    return context.context(work)


def test_the_backend_of_the_recipe_grades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_backend(section: Any, format_checks: bool) -> VerifierPool:
        asked.append((section, format_checks))
        return VerifierPool(section.workers, section.time_limit_s, format_checks=format_checks)

    monkeypatch.setattr(context, "open_backend", open_backend)
    found = opened(tmp_path, recipe({"workers": 3, "time_limit_s": 7.0}, workers=1))
    verdicts = found.verify([TWO, TWO], ["\\boxed{2}", "\\boxed{3}"])
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0]
    assert [verdict.parts for verdict in verdicts] == [{"correct": 1.0}, {"correct": 0.0}], "no parts of the format"
    found.verify([TWO], ["\\boxed{2}"])
    context.close(tmp_path)
    assert [(one.workers, one.time_limit_s, checks) for one, checks in asked] == [(3, 7.0, False)]


def sleeps(problem: Problem, answer: str) -> Any:
    import time

    time.sleep(60)


def test_the_time_limit_of_the_recipe_holds(tmp_path: Path) -> None:
    register(Verifier("test-sleeps", grade=f"{__name__}:sleeps"))
    found = opened(tmp_path, recipe({"workers": 1, "time_limit_s": 0.5}, workers=1))
    (verdict,) = found.verify([Problem("p", "?", "2", "test-sleeps")], ["2"])
    context.close(tmp_path)
    assert (verdict.reward, verdict.error) == (0.0, "time limit of 0.5 s exceeded")


def test_the_judge_of_the_recipe_is_known_where_tasks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(context, "use_judge", said.append)
    found = Recipe.model_validate({"name": "t", "judge": {"urls": ["http://h/v1"], "model": "m"}})
    opened(tmp_path, found).verify([TWO], ["\\boxed{2}"])
    context.close(tmp_path)
    assert [section.model for section in said] == ["m"]


@pytest.mark.parametrize(
    ("verify", "corpus", "workers", "backend"),
    [
        ({"workers": 8}, {"workers": 1}, 8, "processes"),
        ({"workers": 8}, {"workers": 3}, 2, "processes"),
        ({"workers": 2}, {"workers": 4}, 1, "processes"),
        ({"workers": 8, "backend": "ray"}, {"workers": 2}, 4, "ray"),
        ({"workers": 8, "backend": "ray"}, {"workers": 2, "executor": "ray"}, 4, "processes"),
        ({"workers": 8}, {"executor": "ray"}, 1, "processes"),
    ],
)
def test_processes_divide_the_verifiers(
    verify: dict[str, Any], corpus: dict[str, Any], workers: int, backend: str
) -> None:
    part = context.part_of_verifiers(recipe(verify, **corpus))
    assert (part.workers, part.backend) == (workers, backend)


@pytest.mark.slow  # two Ray start-ups
def test_local_processes_that_verify_on_ray_share_one_cluster_and_end_it(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    found = recipe({"workers": 2, "backend": "ray"}, workers=2)
    with context.one_ray(found):
        nodes = ray.nodes()
        one = opened(tmp_path / "a", found)
        assert one.verify([TWO], ["\\boxed{2}"])[0].reward == 1.0
        context.close(tmp_path / "a")
        assert ray.nodes() == nodes
    assert not ray.is_initialized()
