"""Decoding against transformers' `generate`: same weights, prompts, threads and dtype, sampling included in both.

python benchmarks/decode.py [--quick] [--threads N]      prints one JSON list of rows
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch

from h1r.config import EngineSection
from h1r.engine.native import NativeEngine
from h1r.engine.protocol import SamplingParams
from peers import alternate, command_line, pair


def native(engine: NativeEngine, prompts: list[list[int]], params: SamplingParams) -> None:
    assert all(trace.num_tokens == params.max_tokens for trace in engine.generate(prompts, params))


def peer(model: Any, ids: torch.Tensor, count: int) -> None:
    model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=count,
        min_new_tokens=count, pad_token_id=0,
    )  # fmt: skip


def main() -> None:
    arguments = command_line(__doc__)
    table = []
    for geometry in ["tiny", "4M"] if arguments.quick else ["tiny", "4M", "32M"]:
        ours, theirs = pair(geometry)
        for sequences in (16, 64) if arguments.quick else (1, 16, 64):
            prompt_tokens, new_tokens = 16, 32 if arguments.quick else 128
            prompts = torch.randint(
                3, ours.config.vocab_size, (sequences, prompt_tokens), generator=torch.Generator().manual_seed(0)
            )
            engine = NativeEngine(ours.eval(), None, EngineSection(max_sequences=sequences), eos_token_ids=())
            params = SamplingParams(max_tokens=new_tokens)

            runs = {
                "h1r": partial(native, engine, prompts.tolist(), params),
                "transformers": partial(peer, theirs, prompts, new_tokens),
            }
            seconds = alternate(runs, 3)
            for name, median in seconds.items():
                table.append(
                    {
                        "engine": name, "geometry": geometry, "sequences": sequences, "prompt_tokens": prompt_tokens,
                        "new_tokens": new_tokens, "tokens_per_s": round(sequences * new_tokens / median, 1),
                        "ratio": round(seconds["transformers"] / median, 2), "threads": arguments.threads,
                    }
                )  # fmt: skip
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
