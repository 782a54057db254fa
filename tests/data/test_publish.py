"""Curated data for others: `datasets` loads the directory, and the hub gets it as one commit."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from corpora import corpus_recipe, curated

import warm
from h1r.data import publish
from h1r.data.publish import export_data
from h1r.errors import UserError
from hub_server import hub_server


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("curated")
    curated(corpus_recipe(path), path / "run")
    return path / "run"


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_datasets_loads_what_was_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_PART_BYTES", 1)
    monkeypatch.setattr(publish, "_ROWS", 20)
    target = export_data(run, tmp_path / "data")
    assert len(list((target / "sft").glob("train-*.parquet"))) > 1
    cache = str(tmp_path / "cache")
    for config, (file, split) in publish.SETS.items():
        written = rows(run / "curate" / file)
        found = datasets.load_dataset(str(target), config, split=split, cache_dir=cache)
        assert len(found) == len(written) > 0
        for one, other in zip(found, written, strict=True):
            if config == "sft":
                assert [(m["role"], m["content"], m["thinking"]) for m in one["messages"]] == [
                    (m["role"], m["content"], m.get("thinking")) for m in other["messages"]
                ]
                assert (one["problem_id"], one["weight"]) == (other["problem_id"], other["weight"])
            else:
                assert (one["question"], one["answer"]) == (other["question"], other["answer"])
            assert json.loads(one["metadata"]) == other["metadata"]
    with pytest.raises(UserError, match="is there already"):
        export_data(run, target)
    with pytest.raises(UserError, match="no finished curation"):
        export_data(tmp_path, tmp_path / "other")


def test_it_is_pushed_as_a_data_set(run: Path, tmp_path: Path) -> None:
    done = warm.run("export", run, "--to", "dataset", cwd=tmp_path)
    assert done.stdout == "wrote run-data\n", done.stderr
    local = {str(path.relative_to(tmp_path / "run-data")): path.read_bytes()
             for path in (tmp_path / "run-data").rglob("*") if path.is_file()}  # fmt: skip
    with hub_server() as (url, handler):
        there = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"}
        assert "train-00000.parquet" in warm.run("push", run, "me/data", "--data", "--dry-run", env=there).stdout
        assert handler.created == []
        done = warm.run("push", run, "me/data", "--data", env=there)
        assert done.stdout == f"pushed to {url}/datasets/me/data\n", done.stderr
        assert handler.created[0]["type"] == "dataset"
        assert handler.files == local
        handler.refuses = True
        assert "me/data was not pushed" in warm.run("push", run, "me/data", "--data", env=there).stderr
