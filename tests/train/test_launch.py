"""What the processes of torchrun say that do not run the program: nothing, where rank 0 says it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from h1r.config import resolve
from h1r.errors import UserError
from h1r.train.parallel import launch


class Called:
    """In the place of `Calls`: one stage, and the end."""

    def __init__(self) -> None:
        recipe = resolve({"name": "own"}, None, "test").model_dump_json()
        self._said: list[Any] = [{"stage": "sft", "recipe": recipe, "run": "runs/own", "resume": False}, None]

    def receive(self) -> Any:
        return self._said.pop(0)


@pytest.mark.parametrize("mistake", [UserError("sft.seq_len = 4 cuts off every answer; raise it"), ZeroDivisionError()])
def test_a_users_mistake_is_said_by_rank_0_alone_and_a_fault_of_ours_by_whom_it_befalls(
    mistake: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stage(*_: Any) -> None:
        raise mistake

    module = ModuleType("h1r_stage")
    module.train = stage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "h1r_stage", module)
    monkeypatch.setitem(launch.STAGES, "sft", ("h1r_stage", "train"))
    monkeypatch.setattr(launch, "quiet", lambda: None)
    if isinstance(mistake, UserError):
        assert launch._follow(Called()) == 0  # type: ignore[arg-type]
        assert capfd.readouterr() == ("", "")
    else:
        with pytest.raises(ZeroDivisionError):
            launch._follow(Called())  # type: ignore[arg-type]
