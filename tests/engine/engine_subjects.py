"""What the engines' tests generate with: a small geometry that every engine runs, and a tokenizer to read it by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers
import torch
from geometries import SMALL
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from h1r.config import EngineSection
from h1r.models.qwen3.config import Qwen3Config
from h1r.records import Trace

CONFIG = dataclasses.replace(SMALL, head_dim=32, mamba_rms_norm=True, eos_token_id=7, max_position_embeddings=256)
"""A geometry that vLLM's CPU attention has a kernel for (head_dim)."""
QWEN3 = Qwen3Config(
    vocab_size=61, hidden_size=48, intermediate_size=56, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
    initializer_range=0.3, max_position_embeddings=256, eos_token_id=7,
)  # fmt: skip
"""A second family: attention alone, and no decoder in C."""
SECTION = EngineSection(max_sequences=6, prefill_tokens=256)


class Letters:
    """A tokenizer of one character per token."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(65 + i) for i in ids)


def save_letters(directory: Path) -> None:
    """Writes the same beside a checkpoint, for servers; of a chat it makes the texts of its messages."""
    letters = tokenizers.Tokenizer(WordLevel({chr(65 + i): i for i in range(CONFIG.vocab_size)}, unk_token="A"))
    letters.pre_tokenizer = Split("", "isolated")
    letters.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token=chr(65 + 7))
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(directory)


def said(traces: list[Trace]) -> list[tuple[list[int], list[float]]]:
    return [(trace.token_ids, trace.logprobs) for trace in traces]


def gap(model: Callable[[Tensor], Tensor], prompts: Sequence[list[int]], traces: list[Trace]) -> float:
    """Largest difference of log-probabilities to the training forward."""
    worst = 0.0
    for trace in traces:
        prompt = prompts[trace.prompt_index]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *trace.token_ids]]))[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(trace.token_ids)[:, None])[:, 0]
        worst = max(worst, float((expected - torch.tensor(trace.logprobs)).abs().max()))
    return worst
