"""The engine that a recipe's `[engine]` asks for.

native    reads the weights of the model in this process
vllm      reads a checkpoint directory; beside a trainer it takes the model's weights again when they have changed
server    is told to read the checkpoint's weights where it has others; beside a trainer it takes them as `vllm` does
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from h1r.common.progress import note
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.errors import UserError
from h1r.models import CausalLM, load, save
from h1r.records import Trace


@contextmanager
def open_engine(
    section: EngineSection,
    tokenizer: Any,
    model: CausalLM | Callable[[], CausalLM],
    directory: str | Path | None = None,
) -> Iterator[Engine]:
    """An engine until the end of the `with` block.

    model: one in training, whose changes every later request must see; or a function that loads one, called only by an
        engine that needs it in this process. directory: a checkpoint of exactly these weights, where there is one.
    Raises `UserError` for an engine that is not installed, or that cannot run the model.
    """
    if section.kind == "native":
        yield NativeEngine(model if isinstance(model, CausalLM) else model(), tokenizer, section)
        return
    if section.kind == "server":
        with _server(section, tokenizer, model, directory) as client:
            yield client
        return
    from h1r.engine.vllm.engine import VLLMEngine

    with ExitStack() as stack:
        live = model if isinstance(model, CausalLM) else None
        source = Path(directory) if directory is not None and Path(directory).is_dir() else None
        dtype = torch.float32 if live is None else live.dtype
        if source is None:
            written = live or model()
            dtype = written.dtype
            source = save(written, stack.enter_context(tempfile.TemporaryDirectory(prefix="h1r-model-")))
        elif live is None:
            dtype = _dtype_of(source)
        on_gpu = torch.cuda.is_available()
        engine = VLLMEngine(
            source,
            tokenizer,
            section,
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=section.max_model_len,
            # On a GPU vLLM's process has the card's memory to itself when it ends, and starts beside distributed ones.
            in_process=not on_gpu and not (torch.distributed.is_available() and torch.distributed.is_initialized()),
            options={"gpu_memory_utilization": section.gpu_memory_utilization} if on_gpu else None,
        )
        stack.callback(engine.close)
        if live is None:
            yield engine
            return
        following = Following(engine, live)
        stack.callback(following.close)
        yield following


@contextmanager
def _server(
    section: EngineSection,
    tokenizer: Any,
    model: CausalLM | Callable[[], CausalLM],
    directory: str | Path | None,
) -> Iterator[Engine]:
    """The client of a server, which is told to take the weights it should have where it has others."""
    from h1r.engine.server.engine import EXTENSION, SAMPLER, VLLMServer

    engine = VLLMServer(section.url or "", tokenizer, section)
    if isinstance(model, CausalLM):
        if not engine.knows_sampling_logprobs:
            raise UserError(
                f"the server at {engine.url} does not tell the log-probabilities that training needs; start it with "
                f"{EXTENSION} {SAMPLER}"
            )
        with tempfile.TemporaryDirectory(prefix="h1r-model-", dir=section.weights_directory) as first:
            # As a checkpoint, for its configuration to be compared, too.
            engine.load_weights(save(model, first))
        following = Following(engine, model)
        try:
            yield following
        finally:
            following.close()
        return
    if directory is None:
        raise UserError(f"the server at {engine.url} runs {engine.root}, and this model lies in no checkpoint")
    if Path(directory).resolve() != Path(engine.root).resolve() or engine.has_other_weights:
        note(f"{engine.url}: taking the weights of {directory}")
        engine.load_weights(directory)
    yield engine


class Following:
    """An engine with weights of its own that takes those of `model` before a request whenever they have changed: by an
    optimiser's step, or in place by any operation that autograd counts (which a fused optimiser's step is not)."""

    def __init__(self, engine: Engine, model: CausalLM) -> None:
        self.engine, self.model = engine, model
        self._steps = 0
        self._hook = register_optimizer_step_post_hook(self._stepped)
        self._taken = self._versions()

    def close(self) -> None:
        """Stops listening to optimisers. The engine itself stays open."""
        self._hook.remove()

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """See `Engine.generate`."""
        self._take()
        return self.engine.generate(prompts, params)

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`. Weights that change while it runs are seen by the next one."""
        self._take()
        return self.engine.stream(prompts, params)

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`."""
        return self.engine.cancel(prompt_index)

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self.engine.watch(look)

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return self.engine.progress()

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Loads them into the model, as the native engine does."""
        self.model.load_state_dict(weights if isinstance(weights, Mapping) else load(weights).state_dict())

    def _take(self) -> None:
        if (now := self._versions()) != self._taken:
            self.engine.load_weights(self.model.state_dict())
            self._taken = now

    def _stepped(self, *_: Any) -> None:
        self._steps += 1

    def _versions(self) -> tuple[int, list[tuple[int, int]]]:
        """Steps of optimisers so far; where each tensor lies, and how often autograd has seen it change in place."""
        return self._steps, [(tensor.data_ptr(), tensor._version) for tensor in self.model.parameters()]


def _dtype_of(directory: Path) -> torch.dtype:
    """What the matrices of a checkpoint are stored in; the vectors of the recurrence may be wider."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                if len(tensors.get_slice(name).get_shape()) > 1:
                    return tensors.get_tensor(name).dtype
    raise UserError(f"{directory} holds no model.safetensors; only safetensors weights load here")
