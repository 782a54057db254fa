"""An engine beside a model in training: it takes the model's weights again when they have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.engine.weights_version import weights_version
from h1r.models import CausalLM, load
from h1r.records import Trace


class Following:
    """An engine with weights of its own that takes those of `model` before a stream whenever they have changed
    (`weights_version`)."""

    def __init__(self, engine: Engine, model: CausalLM) -> None:
        self.engine, self.model = engine, model
        self._taken = weights_version(model)

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
        if (now := weights_version(self.model)) != self._taken:
            self.engine.load_weights(self.model.state_dict())
            self._taken = now
