"""The old place of `h1r.engine.vllm.plugin`, for servers whose command line or installed metadata names it."""

import warnings

from h1r.engine.vllm.plugin import DeepConf  # type: ignore[attr-defined]

warnings.warn("h1r.engine.vllm_deepconf has moved: name h1r.engine.vllm.plugin", FutureWarning, stacklevel=2)
__all__ = ["DeepConf"]
