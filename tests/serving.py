"""vLLM's own server with our processors, on this machine's loopback, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_LIMIT_S = 600
"""Half a minute of a processor, which a busy machine gives in many."""
PACE_FILES: dict[str, Path] = {}
"""Of each server's address: the file at whose sight it takes its time (`paced.py`)."""


@contextlib.contextmanager
def vllm_server(
    checkpoint: Path, log: Path, max_model_len: int = 256, max_sequences: int = 6, reads_texts: bool = False
) -> Iterator[str]:
    """Its address. log: file for what it prints. reads_texts: with the checkpoint's tokenizer, as chats need."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    installed = importlib.metadata.entry_points(group="vllm.logits_processors")
    plugin = [] if any("h1r." in one.value for one in installed) else ["h1r.engine.vllm.plugin:DeepConf"]
    # `vllm serve` looks for a package named vllm, which the build for CPUs is not.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--mamba-ssm-cache-dtype", "float32",
        "--max-model-len", str(max_model_len), "--max-num-seqs", str(max_sequences), "--enforce-eager",
        *([] if reads_texts else ["--skip-tokenizer-init"]), "--kv-cache-memory-bytes", str(1 << 26),
        "--logits-processors", *plugin, "h1r.engine.vllm.worker:SeededSampler", "paced:Paced",
        "--worker-extension-cls", "h1r.engine.vllm.worker.WorkerExtension",
        "--weight-transfer-config", '{"backend": "h1r_files"}',
    ]  # fmt: skip
    settings = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1"}
    pace = log.with_name("unhurried")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **settings, "PYTHONPATH": paths, "H1R_TEST_PACE_FILE": str(pace)}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.5)
        PACE_FILES[f"http://127.0.0.1:{port}"] = pace
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
