"""One thread, so that sums are taken in one order, and a curated run that the trainers' tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import training_recipe

from h1r.data.curate.plan import curate
from h1r.run.directory import Run


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with nothing but `curate/`."""
    recipe = training_recipe()
    run = Run.open(tmp_path_factory.mktemp("curated"), recipe)
    curate(recipe, run)
    return run.path
