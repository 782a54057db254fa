"""The native engine: continuous batching over the slots of a cache, in the trainer's own process.

`scheduler.py` knows which requests run and in how much memory, `batch.py` is the loop of those that run, `runner.py`
computes its steps, `memory.py` says beforehand what they take and how many sequences fit.

Two ways in, over the same `add` and `step`:

    for trace in engine.stream(prompts, params): ...       the protocol of all engines

    number = engine.add(prompt, params, listen=True)        requests that come and go while others run
    for token in engine.tokens(number): ...                 each token as it is drawn; the others go on meanwhile
    while engine.busy:
        traces = engine.step()                              those that ended
    engine.cancel(number)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from h1r.config import EngineSection
from h1r.engine.native.batch import Drawn
from h1r.engine.native.kept_states import KeptStates
from h1r.engine.native.memory import MemoryPlan
from h1r.engine.native.runner import Runner
from h1r.engine.native.scheduler import Scheduler
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import ONE_STREAM, one_per_prompt
from h1r.models import CausalLM, load
from h1r.records import Trace


class NativeEngine:
    """Generates with a `CausalLM` that may be the one in training: every call takes its weights as they are
    when the call starts. On native kernels (fp32, CPU) it keeps a packed copy of them.

    tokenizer: anything with `decode(ids)`; None leaves `Trace.text` empty and refuses stop strings.
    eos_token_ids: what ends a trace; None takes them from the model's config.
    enforce_eager: no CUDA graphs; None: as `section` says. Without a GPU there are none either way.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Any = None,
        section: EngineSection | None = None,
        eos_token_ids: Sequence[int] | None = None,
        enforce_eager: bool | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.section = section or EngineSection()
        if enforce_eager is not None:
            self.section = self.section.model_copy(update={"enforce_eager": enforce_eager})
        self.eos_token_ids = tuple(eos_token_ids if eos_token_ids is not None else model.config.eos_token_ids)
        self._scheduler = Scheduler(model, self.section, tokenizer, self.eos_token_ids)
        self._look: Callable[[], None] | None = None
        self._streaming = False

    @property
    def memory(self) -> MemoryPlan | None:
        """What the present batch takes, or the last one took."""
        return self._scheduler.memory

    @property
    def kept(self) -> KeptStates:
        """States of traces that may be gone on with."""
        return self._scheduler.kept

    @property
    def runner(self) -> Runner | None:
        """What computes the steps; None before the first."""
        return self._scheduler.runner

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Raises `ValueError` when params do not match prompts in number, or
        differ in `confidence_top_k`, `RuntimeError` while another stream of this engine is in progress, or requests of
        `add` are. A request that cannot be met gives traces that say why (`Trace.error`)."""
        each = one_per_prompt(prompts, params)
        if self._streaming or self.busy:
            raise RuntimeError(ONE_STREAM)
        self._streaming = True
        try:
            self._scheduler.restart()
            for prompt, one in zip(prompts, each, strict=True):
                self.add(prompt, one)
            while self.busy:
                yield from self._scheduler.step()
                if self._look is not None:
                    self._look()
        finally:
            self._streaming = False
            self._scheduler.close()

    @property
    def busy(self) -> bool:
        """Whether a trace of any request has not been handed out yet."""
        return self._scheduler.busy

    def add(self, prompt: Prompt, params: SamplingParams, listen: bool = False) -> int:
        """Adds a request to what runs, a stream or earlier requests, and returns its number: the `prompt_index` of its
        traces. One that cannot be met gives traces that say why. Numbers count from the last `stream` on. listen:
        `tokens` will be asked for its tokens. Raises `ValueError` where `confidence_top_k` is not that of what runs."""
        return self._scheduler.add(prompt, params, listen)

    def step(self) -> list[Trace]:
        """One token more for every trace that runs, and a chunk of the prompts that wait; the traces that ended.
        Raises `RuntimeError` while a stream is in progress, which takes the steps itself."""
        if self._streaming:
            raise RuntimeError(ONE_STREAM)
        return self._scheduler.step()

    def tokens(self, number: int) -> Iterator[Drawn]:
        """The tokens of all traces of a request as they are drawn, taking steps where there is none to give; what other
        requests ended meanwhile, `step` returns. A stop string's own tokens are among them. Raises `KeyError` for a
        request that was not added with `listen`."""
        return self._scheduler.tokens(number)

    def drawn(self, numbers: Collection[int], of_ended: bool = False) -> dict[int, list[Drawn]]:
        """What `tokens` of these requests has to give now, without a step; those with nothing new, or that nobody
        listens to, are missing. of_ended: of traces that have ended alone, which costs nothing where none has."""
        return self._scheduler.drawn(numbers, of_ended)

    def withdraw(self, number: int) -> int:
        """Takes back the traces of a request that have not started, and returns how many: they are nobody's any more.
        Those that run go on. So a scheduler above the engine can let another request in before them."""
        return self._scheduler.withdraw(number)

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Of what does not run there is nothing to cancel."""
        return self._scheduler.cancel(prompt_index)

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return self._scheduler.progress()

    def written(self, prompt_index: int, sample_index: int, first: int = 0) -> list[int]:
        """See `TellsTokens`."""
        return self._scheduler.written(prompt_index, sample_index, first)

    def close(self) -> None:
        """Drops what runs and gives its memory back. The engine may be used again."""
        self._scheduler.close()

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Takes a state dict, or a checkpoint directory of the same configuration."""
        if not isinstance(weights, Mapping):
            weights = load(weights).state_dict()
        self.model.load_state_dict(weights)
        self.kept.clear()
        if self._scheduler.runner is not None:
            self._scheduler.runner.refresh()
