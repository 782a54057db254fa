"""Many processes train one model: context and data parallelism, sharded parameters (docs/guide/parallel.md)."""

from h1r.models.layers.exchange import share
from h1r.train.parallel.context import check_degree, degrees_allowed, parallelize
from h1r.train.parallel.gradients import shard_parameters, sync_gradients
from h1r.train.parallel.parity import parity_worst_error
from h1r.train.parallel.world import World

__all__ = [
    "World",
    "check_degree",
    "degrees_allowed",
    "parallelize",
    "parity_worst_error",
    "shard_parameters",
    "share",
    "sync_gradients",
]
