"""examples/first-hour.ipynb runs from top to bottom in a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "first-hour.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(one.text for one in cell.outputs if one.output_type == "stream" and one.name == "stdout")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(NOTEBOOK.parents[1] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    asked, traces, plots, evaluated, curve = code(notebook)
    assert printed(asked).startswith("35\n")
    assert "('2470', " in printed(traces)
    assert any("12 x 2" in one.data["text/plain"] for one in evaluated.outputs if "data" in one)
    for cell in (plots, curve):
        assert any("image/png" in one.get("data", {}) for one in cell.outputs)


def test_what_is_stored_is_whole_and_small(notebook: Any) -> None:
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, 6))
    assert not [one for cell in code(notebook) for one in cell.outputs if one.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 100_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert str(NOTEBOOK.parents[1]) not in text
