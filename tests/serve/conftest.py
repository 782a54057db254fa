from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_model import LIMITS, NAME, Running, make_run, running

from h1r.evals.answers import recipe_of
from h1r.serve.local import Local
from h1r.serve.model import Model, open_model


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="package")
def model(run: Path) -> Iterator[Model]:
    with open_model(str(run), NAME, recipe_of(str(run))) as found:
        yield found


@pytest.fixture(scope="package")
def server(model: Model) -> Iterator[Running]:
    with running(Local(model, LIMITS), LIMITS) as found:
        yield found
