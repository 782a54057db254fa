"""The native engine: continuous batching over the slots of a cache, in the trainer's own process.

`batch.py` is its loop, `runner.py` computes the steps, `memory.py` says beforehand what a call
takes and how many sequences fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from h1r.common.progress import note
from h1r.config import EngineSection
from h1r.engine.native.batch import Batch
from h1r.engine.native.graphs import GraphRunner
from h1r.engine.native.kept_states import KeptStates
from h1r.engine.native.memory import MemoryPlan, budget_bytes, size_text, waves
from h1r.engine.native.runner import Runner
from h1r.engine.native.select_runner import runner_for
from h1r.engine.native.slots import Request
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import ONE_STREAM, failed, one_per_prompt, refusal
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
        self.memory: MemoryPlan | None = None
        """What the last call took."""
        self.kept = KeptStates()
        self._runner: Runner | None = None
        self._batch: Batch | None = None
        self._look: Callable[[], None] | None = None
        self._later: list[tuple[MemoryPlan, list[Request]]] = []
        self._streaming = False
        self._announced = 0
        self._measured_graphs = 0

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Raises `ValueError` when params do not match prompts in number, or
        differ in `confidence_top_k`, `RuntimeError` while another stream of this engine is in progress. A request that
        cannot be met gives traces that say why (`Trace.error`)."""
        each = one_per_prompt(prompts, params)
        if self._streaming:
            raise RuntimeError(ONE_STREAM)
        self._streaming = True
        try:
            yield from self._serve(prompts, each)
        finally:
            self._streaming = False

    def _serve(self, prompts: Sequence[Prompt], each: list[SamplingParams]) -> Iterator[Trace]:
        config, good = self.model.config, list[Request]()
        for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            if why := refusal(prompt, one, self.tokenizer, config.vocab_size, config.max_position_embeddings):
                yield from failed(index, one, why)
            else:
                good.append(Request(index, [int(token) for token in prompt], one))
        if len({request.params.confidence_top_k for request in good}) > 1:
            raise ValueError("confidence_top_k must be the same for all requests of one call")
        held = self.memory.fixed if self.memory is not None else 0
        budget = budget_bytes(self.section, self.model.device, held)
        self.kept.drop_all_but([request.prompt for request in good])
        if any(request.params.keep_state for request in good):
            budget = self.kept.limit = (budget + self.kept.num_bytes) / 2  # one half for what is kept
        self._later, refused = waves(self.model, self.section, good, budget, self._measured_graphs)
        for request, why in refused:
            yield from failed(request.index, request.params, why)
        try:
            while self._later:
                yield from self._run(*self._later.pop(0))
        finally:
            self._later = []

    def _run(self, plan: MemoryPlan, requests: list[Request]) -> Iterator[Trace]:
        if not requests:
            return
        runner = self._runner = runner_for(self.model, plan.call_tokens, self._runner, self.section.enforce_eager)
        if plan.total > self._announced:
            if not self._announced:
                note(f"decoding: {runner.how}{self._nothing_to_enforce()}")
            note(plan.sentence())
            self._announced = plan.total
        self.memory = plan
        batch = self._batch = Batch(
            self.model,
            runner,
            plan,
            requests,
            self.section.prefill_tokens,
            self.eos_token_ids,
            self.tokenizer,
            self.kept,
        )
        try:
            while batch.busy:
                yield from batch.step()
                if self._look is not None:
                    self._look()
        finally:
            if self._batch is batch:
                # Cache and slots are gone before the next ones come.
                self._batch = None
                self._measure(runner, plan)
                runner.end()

    def _measure(self, runner: Runner, plan: MemoryPlan) -> None:
        """What the graphs of a call took counts in the next ones, and is told when it is more than ever."""
        if isinstance(runner, GraphRunner) and runner.graph_bytes > self._measured_graphs:
            self._measured_graphs = runner.graph_bytes
            note(
                f"CUDA graphs: {runner.recorded} recorded in {runner.seconds:.1f} s, they took "
                f"{size_text(runner.graph_bytes)} where {size_text(plan.graphs)} were counted"
            )

    def _nothing_to_enforce(self) -> str:
        if self.section.enforce_eager and self.model.device.type != "cuda":
            return "; engine.enforce_eager changes nothing, since CUDA graphs need a GPU"
        return ""

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Without a stream in progress there is nothing to cancel."""
        for _, requests in self._later:
            requests[:] = [request for request in requests if request.index != prompt_index]
        return self._batch.cancel(prompt_index) if self._batch is not None else []

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return self._batch.progress() if self._batch is not None else []

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Takes a state dict, or a checkpoint directory of the same configuration."""
        if not isinstance(weights, Mapping):
            weights = load(weights).state_dict()
        self.model.load_state_dict(weights)
        self.kept.clear()
        if self._runner is not None:
            self._runner.refresh()
