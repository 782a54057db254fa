"""The model a run starts from."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from h1r.config import Recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.model import HybridForCausalLM, build, load
from h1r.model.config import preset
from h1r.model.kernels import select
from h1r.progress import note
from h1r.run import Run


def starting_model(recipe: Recipe, run: Run) -> HybridForCausalLM:
    """The recipe's checkpoint, or its preset with random weights (a function of `recipe.seed` alone).

    A preset takes vocabulary size and special tokens from the run's tokenizer. Raises `UserError` when a checkpoint's
    or the overrides' vocabulary is too small for the tokenizer, or a preset meets a tokenizer without an end token.
    """
    tokenizer = load_tokenizer(run.need("curate/tokenizer", "curate"))
    if recipe.model.checkpoint is not None:
        model = load(recipe.model.checkpoint)
        if len(tokenizer) > model.config.vocab_size:
            raise UserError(
                f"tokenizer has {len(tokenizer)} tokens but {recipe.model.checkpoint} only {model.config.vocab_size}; "
                "set tokenizer.path to the checkpoint's own tokenizer"
            )
        return equip(model, recipe.model.kernels)
    assert recipe.model.preset is not None
    config = preset(recipe.model.preset, **{**_tokens(tokenizer), **recipe.model.overrides})
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model.overrides.vocab_size = {config.vocab_size} is less than the tokenizer's {len(tokenizer)} tokens; "
            "remove it, and the tokenizer's own size is taken"
        )
    return equip(build(config, recipe.seed), recipe.model.kernels)


def equip(model: HybridForCausalLM, kernels: str) -> HybridForCausalLM:
    """Sets the kernels of `model` by name and prints which they are. Raises `UserError` when they cannot run here."""
    chosen = select(kernels, model.device, model.dtype)
    note(f"kernels: {chosen.name} ({chosen.reason})")
    return model.use(chosen)


def _tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Vocabulary size, rounded up to a multiple of 16 for the matrix kernels, and special ids. The end token stands in
    for padding and beginning where a tokenizer has none."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("the tokenizer has no end token; set eos_token in the tokenizer_config.json of tokenizer.path")
    pad, bos = tokenizer.pad_token_id, tokenizer.bos_token_id
    return {
        "vocab_size": -(-len(tokenizer) // 16) * 16,
        "pad_token_id": int(eos if pad is None else pad),
        "bos_token_id": int(eos if bos is None else bos),
        "eos_token_id": int(eos),
    }
