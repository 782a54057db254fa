"""What vLLM loads of this package, in every server on the machine: it must not keep one from starting.

vLLM ends when a plugin of the group `vllm.logits_processors` cannot be imported, or lacks an interface that it wants.
So where `deepconf.py` does not fit the vLLM at hand, `DeepConf` is a processor here that changes nothing, and
refuses the requests that ask for it with the reason.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

_log = logging.getLogger(__name__)


def absent(why: str) -> type:
    """A processor of whichever interfaces this vLLM has; it changes nothing, and refuses requests that ask for it."""
    interfaces: list[Any] = []
    try:
        from vllm.v1.sample.logits_processor import LogitsProcessor as First

        interfaces.append(First)
    except Exception:
        _log.debug("this vLLM has no logits processors for its first model runner")
    try:
        from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as Second

        interfaces.append(Second)
    except Exception:
        _log.debug("this vLLM has no logits processors for a second model runner")

    class Absent(*interfaces):  # type: ignore[misc]
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            if any(str(name).startswith("deepconf_") for name in sampling_params.extra_args or {}):
                raise ValueError(f"DeepConf is not available on this server: {why}")

        def is_argmax_invariant(self) -> bool:
            return True

        def update_state(self, batch_update: Any) -> None:
            pass

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            return False

        def apply(self, logits: Any, ctx: Any = None) -> Any:
            return logits

    return Absent


def _load() -> type:
    try:
        import vllm

        from h1r.engine.vllm.deepconf import DeepConf
        from h1r.engine.vllm.versions import untested
    except Exception as error:
        why = f"this package does not fit this vLLM ({type(error).__name__}: {error})"
        _log.warning("requests that ask for DeepConf will be refused: %s", why)
        return absent(why)
    if another := untested(str(vllm.__version__)):
        _log.warning("DeepConf is on, untested: %s", another)
    return DeepConf


if TYPE_CHECKING:
    from h1r.engine.vllm.deepconf import DeepConf
else:
    DeepConf = _load()
