"""The table of token embeddings."""

from __future__ import annotations

import torch
from torch import nn


def token_embedding(vocab_size: int, hidden_size: int) -> nn.Embedding:
    """`nn.Embedding` [V, D] whose values are not set yet: `init_weights` or a checkpoint does that.

    The constructor would draw them. On the meta device that imports torch's compiler, which takes longer than all else
    between a command and its first token.
    """
    return nn.Embedding(vocab_size, hidden_size, _weight=torch.empty(vocab_size, hidden_size))
