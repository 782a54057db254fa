"""The engines on one small model, built once per module. vLLM runs in the tests' own process, and once more as a server
in its own; it is skipped where it is not installed.

`geometries` of the model's tests is shared.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_subjects import CONFIG, QWEN3, SECTION, Letters, save_letters
from geometries import randomised
from recorded import RecordedRunner

from h1r.common.engines import ENGINES
from h1r.common.plugins import import_file
from h1r.engine.native import scheduler as native
from h1r.engine.native.engine import NativeEngine
from h1r.kernels.selection import select
from h1r.models import CausalLM, build, save
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from serving import PACE_FILES, vllm_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def model() -> HybridForCausalLM:
    return randomised(CONFIG, seed=3)


@pytest.fixture(scope="session")
def qwen3() -> CausalLM:
    return build(QWEN3, seed=2)


@pytest.fixture(scope="session")
def vllm_installed() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make setup-vllm")


@pytest.fixture(scope="module")
def vllm_engine(vllm_installed: None, model: HybridForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    from h1r.engine.vllm.engine import VLLMEngine

    checkpoint = save(model, tmp_path_factory.mktemp("model"))
    with ThreadPoolExecutor(1) as elsewhere:  # as `h1r serve` opens it, which asks it from a third thread
        engine = elsewhere.submit(VLLMEngine, checkpoint, Letters(), SECTION, in_process=True).result()
    yield engine
    engine.close()


@pytest.fixture(scope="package")
def served(vllm_installed: None, model: HybridForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's own server on the model, with our processors; on this machine's loopback only."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    checkpoint = save(model, tmp_path_factory.mktemp("served"))
    save_letters(checkpoint)
    with vllm_server(checkpoint, log, reads_texts=True) as url:
        yield url


@pytest.fixture(scope="module")
def server_engine(served: str) -> Any:
    from h1r.engine.server.engine import VLLMServer

    return VLLMServer(served, Letters(), SECTION)


@pytest.fixture(
    scope="module",
    params=[
        "native",
        "native-torch",
        "native-graphs",
        "native-qwen3",
        "one_by_one",
        "vllm",
        pytest.param("server", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def engine(request: pytest.FixtureRequest, model: HybridForCausalLM) -> Iterator[Any]:
    """`native` decodes in C, `native-torch` with PyTorch, as on any other device or type, `native-graphs` replays
    recorded steps, as on CUDA, and `native-qwen3` has a model of another family. `one_by_one`: an example's, by its
    registered name. `server`: a client of vLLM's own server, which takes a minute to start."""
    if request.param in ("vllm", "server"):
        yield request.getfixturevalue(f"{request.param}_engine")
        return
    if request.param == "one_by_one":
        import_file(EXAMPLES / "own_engine.py")
        yield ENGINES.require(request.param)(copy.deepcopy(model), Letters(), SECTION)
        return
    if request.param == "native-qwen3":
        yield NativeEngine(copy.deepcopy(request.getfixturevalue("qwen3")), Letters(), SECTION)
        return
    kernels, patch = "native" if request.param == "native" else "torch", pytest.MonkeyPatch()
    subject = copy.deepcopy(model).use(select(kernels))
    if request.param == "native-graphs":
        runner, plain = RecordedRunner(subject), native.runner_for
        patch.setattr(native, "runner_for", lambda m, *rest: runner if m is subject else plain(m, *rest))
    yield NativeEngine(subject, Letters(), SECTION)
    patch.undo()


@pytest.fixture
def engine_model(request: pytest.FixtureRequest, engine: Any) -> CausalLM:
    """The model whose traces `engine` gives."""
    return request.getfixturevalue("qwen3" if request.node.callspec.params["engine"] == "native-qwen3" else "model")


@pytest.fixture
def endless_tokens(engine: Any) -> Iterator[int]:
    """How many tokens a trace without an end has, to be seen on its way. A server goes on meanwhile: there
    they are many, and its steps take long enough for them to be seen one after another, on a busy machine, too."""
    file = PACE_FILES.get(getattr(engine, "url", ""))
    if file is None:
        yield 60
        return
    file.touch()
    yield 240
    file.unlink()
