"""Our backend of vLLM's weight-transfer interface, inside its workers: weights that arrive as safetensors files.

Importing the module makes it known to vLLM (`worker.py` does), and mends how 0.32 prefills on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import (  # type: ignore[import-not-found,unused-ignore]
    WeightTransferEngine,
    WeightTransferEngineFactory,
)
from vllm.distributed.weight_transfer.base import (  # type: ignore[import-not-found,unused-ignore]
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2  # type: ignore[import-not-found,unused-ignore]
from vllm.model_executor.model_loader.reload import (  # type: ignore[import-not-found,unused-ignore]
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform  # type: ignore[import-not-found,unused-ignore]

from h1r.engine.vllm.weights import BACKEND
from h1r.models.checksum import checksum


@dataclass
class FilesInitInfo(WeightTransferInitInfo):  # type: ignore[misc,unused-ignore]
    """Files need no rendezvous."""


@dataclass
class FilesUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc,unused-ignore]
    """files: safetensors files in checkpoint format which every worker can read."""

    files: list[str]


class FileWeightTransfer(WeightTransferEngine):  # type: ignore[misc,unused-ignore]
    """Weights in checkpoint format from safetensors files. Each tensor is written into the storage it already has."""

    init_info_cls = FilesInitInfo
    update_info_cls = FilesUpdateInfo

    def init_transfer_engine(self, init_info: FilesInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FilesUpdateInfo) -> None:
        model: Any = self.model
        RECEIVED.clear()
        model.load_weights(_tensors_of(update_info.files))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


RECEIVED: dict[str, int] = {}
"""Checksum of each tensor that this worker was last given, by name."""


def _tensors_of(files: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                RECEIVED[name] = checksum(tensor)
                yield name, tensor


def _no_states_from_inside_a_prefill() -> None:
    """Has vLLM's scheduler cut prefills at the borders of blocks, where it stores states for prefix caching.

    0.32 instead lets a mixer hand out the state at a border in the middle of a pass, which its CPU kernel cannot do:
    the first lone prompt longer than a block would end the engine with an IndexError.
    """
    mixer: Any = MambaMixer2
    honest = mixer.get_kv_cache_spec

    def spec(self: Any, vllm_config: Any) -> Any:
        found: Any = honest(self, vllm_config)
        if not getattr(found, "num_prefill_checkpoint_blocks", 0):
            return found
        return replace(found, num_prefill_checkpoint_blocks=0, prefill_checkpoint_alignment=None)

    mixer.get_kv_cache_spec = spec


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileWeightTransfer)
    if current_platform.is_cpu():
        _no_states_from_inside_a_prefill()
