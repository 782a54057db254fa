"""The old place of `h1r.engine.vllm.worker`, for servers whose command line names it."""

import warnings

from h1r.engine.vllm.worker import SeededSampler, TraceSampler, WorkerExtension

warnings.warn("h1r.engine.vllm_worker has moved: name h1r.engine.vllm.worker", FutureWarning, stacklevel=2)
__all__ = ["SeededSampler", "TraceSampler", "WorkerExtension"]
