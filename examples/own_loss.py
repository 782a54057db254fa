"""A loss of your own: REINFORCE with the mean of the other rollouts as baseline (RLOO, arXiv 2402.14740).

    h1r demo examples/own_loss.toml         curation, SFT and RL with it

The recipe names this file in `plugins` and the loss in `rl.algorithm`. A loss says which advantage a rollout has and
what each token costs; micro-batches, importance weights between sampler and trainer, and the sum over processes are the
trainer's work.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

import h1r
from h1r.train.algorithms import Loss, PolicyTerms, TokenStreams


@h1r.loss("rloo")
class RLOO(Loss):
    def advantages(self, rewards: Sequence[float]) -> Tensor:
        """A_i = R_i - mean of the G - 1 other rewards = (R_i - mean) G / (G - 1)."""
        rewards_G = torch.tensor(rewards, dtype=torch.float64)
        others = max(len(rewards_G) - 1, 1)
        return ((rewards_G - rewards_G.mean()) * len(rewards_G) / others).float()

    def per_token(self, streams: TokenStreams) -> PolicyTerms:
        """-A log pi at each token, times a factor that the recipe may give."""
        scale = self.section.algorithm_options.get("scale", 1.0)
        return PolicyTerms(-scale * streams.advantages * streams.logprobs)
