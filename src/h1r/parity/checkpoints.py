"""What is written is what was there, and another implementation reads the same model in it."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import torch

from h1r.models import load
from h1r.models.registry import family_of
from h1r.parity.measure import NotHereError, Worst
from h1r.parity.subject import Subject


def save_load(subject: Subject) -> Worst:
    """Every tensor to the bit, and every field of the configuration."""
    again = load(subject.checkpoint())
    worst = Worst()
    for f in dataclasses.fields(subject.config):  # type: ignore[arg-type]
        mine, theirs = getattr(subject.config, f.name), getattr(again.config, f.name)
        worst.add(f"{f.name} of the configuration, {theirs!r} for {mine!r}", 0.0 if mine == theirs else math.inf)
    found = again.state_dict()
    for name, tensor in subject.model.state_dict().items():
        if tensor.dtype != found[name].dtype:
            worst.add(f"dtype of {name}", math.inf)
        worst.compare(name, found[name], tensor.to(found[name].device))
    return worst


@torch.no_grad()
def transformers_logits(subject: Subject) -> Worst:
    """Logits of a batch by the family's own class in transformers, which reads the files itself."""
    if importlib.util.find_spec("transformers") is None:
        raise NotHereError("transformers is not installed")
    name = family_of(subject.config).transformers_class
    if name is None:
        raise NotHereError(f"transformers has no {subject.config.model_type}")
    import transformers
    from transformers.utils import logging

    ids_BT = subject.ids(2, subject.tokens)
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        theirs: Any = getattr(transformers, name).from_pretrained(
            subject.directory(), dtype=subject.dtype, trust_remote_code=False
        )
        expected = theirs.to(subject.device).eval()(ids_BT, use_cache=False).logits
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    return Worst().compare("logits", torch.stack([subject.alone(row) for row in ids_BT]), expected)
