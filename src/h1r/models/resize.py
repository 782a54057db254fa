"""A model with more entries in its vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.models.causal_lm import CausalLM
from h1r.models.registry import family_of

_SPREAD = 0.1


def with_rows(model: CausalLM, vocab_size: int, seed: int) -> CausalLM:
    """The model with a vocabulary of `vocab_size`, no less than its own, on the same device and in the same types.

    A new row of the embedding and of the head is the mean of the others, and a tenth of their deviation from it at
    random (a function of `seed`), so that no new token is likelier than an average one and no two are alike. All other
    tensors are those of `model`.
    """
    config = model.config.replaced(vocab_size=vocab_size)
    with torch.device("meta"):
        grown: CausalLM = family_of(config).model_class(config)
    state = model.state_dict()
    expected = grown.state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if expected[name].shape != tensor.shape:
            state[name] = _grown(tensor, expected[name].shape[0], generator)
    grown.load_state_dict(state, assign=True)
    grown.tie_weights()
    grown.restore_buffers()
    return grown.train(model.training)


def _grown(rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """[V, D] -> [number, D]."""
    wide = rows.float()
    new = torch.randn(number - rows.shape[0], rows.shape[1], generator=generator).to(rows.device)
    return torch.cat([rows, (wide.mean(0) + _SPREAD * wide.std(0) * new).to(rows.dtype)])
