"""An engine beside a model in training: it takes the model's weights again when they have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.models import CausalLM, load
from h1r.records import Trace


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

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`."""
        return self.engine.add(prompt, params)

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
