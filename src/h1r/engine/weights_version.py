"""Whether a model's weights may be others than before, for engines that keep what they computed or copied from them."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from h1r.models import CausalLM


class _Steps:
    """Counts the steps of every optimiser of this process."""

    taken = 0

    def __call__(self, *_: Any) -> None:
        self.taken += 1


_STEPS = _Steps()
register_optimizer_step_post_hook(_STEPS)


def weights_version(model: CausalLM) -> tuple[int, list[tuple[int, int]]]:
    """Another value than before where an optimiser has taken a step since (a fused one, too), or a tensor of the model
    lies elsewhere, or was changed in place by an operation that autograd counts."""
    return _STEPS.taken, [(tensor.data_ptr(), tensor._version) for tensor in model.parameters()]
