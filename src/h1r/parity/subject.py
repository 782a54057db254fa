"""The model under test, and the inputs that every check shares.

A preset's random weights are drawn so that each branch has a say: a linear layer's output has unit size after its
multiplier, and vectors that training would move (norms, D, dt_bias, biases) are not constant. With the weights of a
fresh model an error in a branch that is scaled down by a thousand, or in a vector of ones, would not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from h1r.common.hub import local_directory
from h1r.common.memory import free_memory_bytes
from h1r.common.packaged import PREFIX
from h1r.common.prose import counted
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models import CausalLM, build, load, save
from h1r.models.checkpoint import read_config
from h1r.models.checks import FamilyChecks
from h1r.models.config import ModelConfig
from h1r.models.registry import family_of, presets, resolved

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
SHORTEST = 24
"""Fewest tokens on which every check has something to cut, pad and fork."""


@dataclass
class Subject:
    """A model, the directory that checks may write into, and seeded inputs of `tokens` tokens in all."""

    model: CausalLM
    workspace: Path
    tokens: int
    seed: int = 0
    name: str = "a model in memory"
    origin: str | None = None
    """Directory or hub id that holds exactly these weights; None when they were drawn or cut here."""
    text_ids: list[int] | None = None
    """Of the text that narrow weights are compared on; None: what the model writes."""
    _saved: Path | None = field(default=None, repr=False)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def generator(self, stream: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self.seed + stream)

    def ids(self, *shape: int, stream: int = 0) -> Tensor:
        """Token ids, uniform over the vocabulary."""
        return torch.randint(self.config.vocab_size, shape, generator=self.generator(stream)).to(self.device)

    def noise(self, *shape: int, stream: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers of the model's dtype, or of `dtype`."""
        return torch.randn(*shape, generator=self.generator(stream)).to(self.device, dtype or self.dtype)

    def lengths(self) -> list[int]:
        """Lengths of documents that hold `tokens` tokens: one of a single token, one shorter than an operator
        looks back, one of about half of all tokens, two of the rest, in an order that depends on the seed."""
        short = [1, self.config.short_length]
        rest = self.tokens - sum(short)
        half = rest // 2 + int(torch.randint(max(1, rest // 8), (1,), generator=self.generator()))
        third = max(1, 2 * (rest - half) // 3)
        lengths = [*short, half, third, rest - half - third]
        order = torch.randperm(len(lengths), generator=self.generator())
        return [lengths[i] for i in order.tolist()]

    def documents(self) -> list[Tensor]:
        """Token ids [n] of documents with `lengths()`."""
        return [self.ids(n, stream=10 + i) for i, n in enumerate(self.lengths())]

    def alone(self, ids_T: Tensor) -> Tensor:
        """Logits [T, V] of one document by the training forward: what every other way to run it must equal."""
        return self.model.logits(self.model.model(ids_T, Layout.of([len(ids_T)], self.device)))

    def checkpoint(self) -> Path:
        """The model as it is saved here, written on first use."""
        if self._saved is None:
            self._saved = save(self.model, self.workspace / "checkpoint")
        return self._saved

    def directory(self) -> Path:
        """The user's own directory where it holds exactly these weights, else `checkpoint()`."""
        own = Path(self.origin or "")
        return own if self.origin and own.is_dir() else self.checkpoint()

    def parameters(self) -> tuple[list[str], list[Tensor]]:
        """Names and tensors of all parameters; tied ones count once."""
        names, tensors = zip(*self.model.named_parameters(), strict=True)
        return list(names), list(tensors)


def open_subject(
    name: str,
    workspace: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    kernels: str = "auto",
    layers: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
) -> Subject:
    """The subject that `name` stands for: a preset with random weights, or a checkpoint directory or hub id.

    layers: keep only the first so many. tokens: in all documents together; None takes three of the model's blocks
    (`ModelConfig.tokens_per_block`), so that states cross their borders. Raises `UserError` for what cannot be opened,
    held in memory, or cut.
    """
    chosen = select(kernels, device, dtype)
    cut = "" if layers is None else f", its first {counted(layers, 'layer')}"
    directory = local_directory(name) if Path(name).is_dir() or name.startswith(PREFIX) else None
    config = presets().get(name) or (read_config(directory) if directory else None)
    if config is not None:
        config = _cut(name, config, layers)
        tokens = _tokens(config, tokens)
        _refuse_what_does_not_fit(name, config, tokens, dtype, device)
    if name in presets():
        assert config is not None
        model = random_model(config, seed).to(dtype).to(device)
        return Subject(model.use(chosen), workspace, _tokens(config, tokens), seed, f"{name}, random weights{cut}")
    if config is None and name.count("/") != 1:
        raise UserError(f"{name} is neither a checkpoint directory nor a hub id nor a preset ({', '.join(presets())})")
    model = load(name, dtype, device)
    whole = model.config
    model.config = _cut(name, whole, layers)
    if hasattr(model.model, "config"):
        model.model.config = model.config  # type: ignore[assignment]
    model.model.layers = model.model.layers[:layers]
    origin = name if model.config == whole else None
    return Subject(model.use(chosen), workspace, _tokens(model.config, tokens), seed, f"{name}{cut}", origin)


def random_model(config: ModelConfig, seed: int) -> CausalLM:
    """Weights in which every branch has a say (see the module's head); a function of `seed` alone."""
    model = build(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        # After the loop, since tied weights are one tensor: the embedding's scale then holds for both.
        checks: FamilyChecks | None = resolved(family_of(config).checks)
        if checks is not None and checks.unit_scale is not None:
            checks.unit_scale(model)
        else:
            model.model.embed_tokens.weight.mul_(math.sqrt(config.hidden_size))
    return model


def needed_bytes(config: ModelConfig, tokens: int, dtype: torch.dtype) -> int:
    """Memory at the checks' peak: the weights, two sets of gradients or two more copies of the weights and one being
    read, and eight tensors of logits."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in family_of(config).model_class(config).parameters())
    return 4 * parameters * dtype.itemsize + 8 * tokens * config.vocab_size * max(4, dtype.itemsize)


def _cut(name: str, config: ModelConfig, layers: int | None) -> ModelConfig:
    if layers is None:
        return config
    if not 1 <= layers <= config.num_hidden_layers:
        raise UserError(f"--layers {layers} is refused: {name} has {counted(config.num_hidden_layers, 'layer')}")
    return config.replaced(num_hidden_layers=layers)


def _tokens(config: ModelConfig, tokens: int | None) -> int:
    most = config.max_position_embeddings
    if tokens is None:
        return min(max(3 * config.tokens_per_block + 8, SHORTEST), most)
    if not SHORTEST <= tokens <= most:
        raise UserError(
            f"--tokens {tokens} is refused: the checks need {SHORTEST}, and this model has {counted(most, 'position')}"
        )
    return tokens


def _refuse_what_does_not_fit(
    name: str, config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device | str
) -> None:
    needed, free = needed_bytes(config, tokens, dtype), free_bytes(device)
    if free is None or needed <= free:
        return
    fewer = min(2, config.num_hidden_layers)
    cut = needed_bytes(config.replaced(num_hidden_layers=fewer), tokens, dtype)
    raise UserError(
        f"{name} needs about {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, "
        f"{free / 1e9:.1f} GB are free; "
        f"--layers {fewer} cuts it to {cut / 1e9:.1f} GB, and --dtype bfloat16 takes half of float32"
    )


def free_bytes(device: torch.device | str) -> int | None:
    """Free memory of the device; None where it cannot be known."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()
