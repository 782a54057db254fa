"""The peers of `benchmarks/decode.py`: each decodes so many sequences of so many tokens and says in how many seconds.

vLLM runs in a process of its own, which stays alive between runs. llama.cpp runs its own `llama-batched-bench`, which
samples nothing and whose prefill we do not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from answering import Answering
from h1r.errors import UserError

_VLLM_CHILD = """
import json, os, sys, time
os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import torch
from vllm import LLM, SamplingParams
from h1r.engine.vllm.limits import block_tokens, cache_bytes_for
from h1r.models.checkpoint import read_config
from pathlib import Path

checkpoint, length, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
config = read_config(Path(checkpoint))
element = getattr(torch, settings["dtype"]).itemsize
block = block_tokens(config, element)
llm = LLM(
    model=checkpoint, mamba_ssm_cache_dtype="float32", max_model_len=length,
    block_size=block, enable_prefix_caching=False, skip_tokenizer_init=True,
    generation_config="vllm", disable_log_stats=True, use_tqdm_on_load=False,
    kv_cache_memory_bytes=cache_bytes_for(config, block, settings["max_num_seqs"], length, element), **settings,
)
print(json.dumps(["ready", torch.get_num_threads()]), file=answers, flush=True)
for line in sys.stdin:
    prompts, count = json.loads(line)
    params = SamplingParams(temperature=1.0, max_tokens=count, ignore_eos=True, detokenize=False, logprobs=0)
    start, busy = time.perf_counter(), time.process_time()
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    seconds = time.perf_counter() - start, time.process_time() - busy
    assert all(len(o.outputs[0].token_ids) == count for o in outputs)
    print(json.dumps(seconds), file=answers, flush=True)
"""


_SETTINGS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 64}


class VLLM:
    """vLLM's own sampling with the log-probability of each sampled token; eager and fp32 but for `settings`, fp32
    states."""

    def __init__(
        self, checkpoint: str, threads: int, length: int, processor: bool, settings: dict[str, Any] | None = None
    ) -> None:
        self._processor = processor
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
        given = [checkpoint, str(length), json.dumps({**_SETTINGS, **(settings or {})})]
        self._process = Answering(
            "vLLM", [sys.executable, "-c", _VLLM_CHILD, *given],
            {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": cores},
            hint="its error is above; leave it out with --engines",
        )  # fmt: skip

    def seconds(self, prompts: list[list[int]], count: int) -> float:
        return float(self._process.ask([prompts, count])[self._processor])

    def close(self) -> None:
        self._process.end()


_CONVERT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import convert_hf_to_gguf as script
from conversion.falcon_h1 import FalconH1Model

def no_words(self):
    self._set_vocab_none()
    self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

FalconH1Model.set_vocab = no_words
script.main()
"""


class LlamaCpp:
    """llama.cpp from a source tree that has been built in `build`. Its own script converts the checkpoint, without a
    tokenizer, which a benchmark does not need and the script has only for tokenizers that it knows."""

    def __init__(self, tree: str, checkpoint: str, threads: int, processor: bool) -> None:
        self._processor = processor
        self._bench = Path(tree) / "build" / "bin" / "llama-batched-bench"
        if not self._bench.exists():
            raise UserError(
                f"{self._bench} is missing; build it: cmake -S {tree} -B {tree}/build -DGGML_NATIVE=ON "
                f"-DCMAKE_BUILD_TYPE=Release && cmake --build {tree}/build --target llama-batched-bench"
            )
        self._file, self._threads = f"{checkpoint}/model.gguf", threads
        command = [sys.executable, "-c", _CONVERT, tree, checkpoint, "--outtype", "f32", "--outfile", self._file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"llama.cpp's script did not convert the checkpoint: {done.stderr.strip()[-600:]}")

    def seconds(self, sequences: int, prompt_tokens: int, count: int) -> float:
        """Of generation alone. Of a processor's seconds it is what more tokens take than fewer, in another process."""
        if self._processor:
            fewer = count // 4
            few, many = (self._run(sequences, prompt_tokens, n)[1] for n in (fewer, count))
            return (many - few) * count / (count - fewer)
        return self._run(sequences, prompt_tokens, count)[0]

    def _run(self, sequences: int, prompt_tokens: int, count: int) -> tuple[float, float]:
        """Seconds of generation, and processor seconds of the whole process."""
        # It gives each sequence whole blocks of 256 positions.
        context = sequences * -(-(prompt_tokens + count) // 256) * 256
        sizes = {"-npp": prompt_tokens, "-ntg": count, "-npl": sequences, "-c": context, "-b": 2048, "-ub": 512}
        settings = {**sizes, "-t": self._threads, "-tb": self._threads, "-ctk": "f32", "-ctv": "f32"}
        command = [str(self._bench), "-m", self._file, "--output-format", "jsonl"]
        for option, value in settings.items():
            command += [option, str(value)]
        # Its log writer loses the row now and then when the program ends: then it runs again.
        for _ in range(5):
            before = os.times()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            after = os.times()
            rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if rows:
                busy = after.children_user + after.children_system - before.children_user - before.children_system
                return float(rows[-1]["t_tg"]), busy
        raise UserError(f"llama-batched-bench printed no row: {done.stderr.strip()[-600:]}")


def generate(model: Any, ids: torch.Tensor, count: int) -> None:
    """transformers' `generate`, with sampling at temperature 1."""
    model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=count,
        min_new_tokens=count, pad_token_id=0,
    )  # fmt: skip
