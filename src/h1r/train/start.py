"""The model a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.config import Recipe, RLSection, SFTSection
from h1r.data.chat import IM_END, IM_START, end_of_turn, is_foreign
from h1r.data.control_tokens import add_control_tokens
from h1r.data.file_kinds import conversations_file
from h1r.data.tokenizer import load_tokenizer, with_chat_format
from h1r.errors import UserError
from h1r.kernels.selection import select
from h1r.models import CausalLM, build, load
from h1r.models.checkpoint import load_weights, skeleton
from h1r.models.device import default_device
from h1r.models.registry import family_of, preset
from h1r.models.resize import with_rows
from h1r.models.shards import own_rows
from h1r.run.directory import Run
from h1r.train.lora import Adapted, check_whole_weights
from h1r.train.parallel.activations import checkpoint_layers
from h1r.train.parallel.gradients import Sharded, Trained, computing_model
from h1r.train.parallel.precision import ComputeCopy
from h1r.train.parallel.world import ALONE, World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def starting_model(recipe: Recipe, run: Run) -> CausalLM:
    """The recipe's checkpoint, or its preset with random weights (a function of `recipe.seed` alone).

    Raises as `start` does.
    """
    model, _ = start(recipe, run, ALONE)
    assert isinstance(model, CausalLM)
    return model


def compute_dtype_of(section: SFTSection | RLSection) -> torch.dtype | None:
    """What a stage computes in, on weights that are kept in fp32; None: in what they are stored in."""
    found: torch.dtype | None = None if section.compute_dtype == "stored" else getattr(torch, section.compute_dtype)
    return found


def start(recipe: Recipe, run: Run, world: World, compute_dtype: torch.dtype | None = None) -> tuple[CausalLM, Trained]:
    """`starting_model` as this process of `world` trains it, and what its forward pass is called through.

    A sharded model is laid out on the meta device and filled part by part, so that no process ever holds the whole.
    compute_dtype: what the passes run in; weights are kept in fp32 then, else as stored.

    A preset takes vocabulary size and special tokens from the run's tokenizer. Raises `UserError` when a checkpoint's
    or the overrides' vocabulary is too small for the tokenizer, or a preset meets a tokenizer without an end token.
    """
    tokenizer = saved_tokenizer(recipe, run)
    if recipe.model.checkpoint is not None:
        return _from_checkpoint(recipe, recipe.model.checkpoint, tokenizer, world, compute_dtype)
    assert recipe.model.preset is not None
    config = preset(recipe.model.preset, **{**_tokens(tokenizer), **recipe.model.overrides})
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"model.overrides.vocab_size = {config.vocab_size} is less than the tokenizer's "
            f"{counted(len(tokenizer), 'token')}; "
            "remove it, and the tokenizer's own size is taken"
        )
    if world.mesh is None:
        return _whole(build(config, recipe.seed).to(default_device()), recipe, world, compute_dtype)
    with torch.device("meta"):
        empty: CausalLM = family_of(config).model_class(config)
    return _in_shards(empty, None, recipe, world, compute_dtype)


def own_data(recipe: Recipe) -> Path | None:
    """The file of conversations that `sft.data` names, or the first of a mixture; None for a curation."""
    return conversations_file(recipe.sft.leading_data)


def data_directory(recipe: Recipe, run: Run) -> Path:
    """Where the curation lies that is trained on: `sft.data`, the first of a mixture, or the run's own."""
    return Path(recipe.sft.leading_data) if recipe.sft.leading_data else run.path / "curate"


def curated(recipe: Recipe, run: Run, name: str) -> Path:
    """A file of the run's curation, else of the one that [sft] names. `UserError` where neither has it."""
    elsewhere = data_directory(recipe, run) / name
    own = run.path / "curate" / name
    return elsewhere if elsewhere.exists() and not own.exists() else run.need(f"curate/{name}", "curate")


def tokenizer_directory(recipe: Recipe, run: Run) -> Path:
    """The tokenizer of the data that are trained on. `UserError` when it is missing, or when the run has curated data
    of its own with another tokenizer, which RL and evaluation would take."""
    own = run.path / "curate" / "tokenizer"
    if not recipe.sft.leading_data:
        return run.need("curate/tokenizer", "curate")
    found = data_directory(recipe, run) / "tokenizer"
    if not found.is_dir():
        key = "data of sft.mixture" if recipe.sft.mixture else "sft.data"
        raise UserError(f"{found} is missing; set {key} to a directory that `h1r curate` wrote, as RUN/curate")
    if own.is_dir() and (own / "tokenizer.json").read_bytes() != (found / "tokenizer.json").read_bytes():
        raise UserError(f"{found} is another tokenizer than {own}; curate both with one `tokenizer.path`")
    return found


def saved_tokenizer(recipe: Recipe, run: Run) -> PreTrainedTokenizerFast:
    """The tokenizer of the data that are trained on, as it is saved with the model: its chat template writes the
    prompts that the model is trained on, and its end token ends a turn, so that whoever reads the checkpoint asks the
    model as we do and stops where it was taught to.

    That of the recipe or its checkpoint where the data are a file.

    Raises as `tokenizer_directory` does, and for data that were encoded with another template or system prompt.
    """
    if own_data(recipe):
        if (known := recipe.tokenizer.path or recipe.model.checkpoint) is None:
            raise UserError(
                f"the data of [sft], {recipe.sft.leading_data}, are a file, and a preset has no tokenizer; set "
                "model.checkpoint, or tokenizer.path"
            )
        return chat_tokenizer(known, recipe)
    directory = tokenizer_directory(recipe, run)
    tokenizer = load_tokenizer(directory)
    encoded_with = tokenizer.chat_template
    if with_chat_format(tokenizer, recipe.chat).chat_template != encoded_with and recipe.sft.leading_data:
        raise UserError(
            f"{recipe.sft.leading_data} was encoded with another chat template or system prompt than [chat] asks for; "
            "leave chat.system_prompt and chat.template out to keep its own, or curate it anew"
        )
    return ending_turns(tokenizer)


def check_same_tokenizer(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """`UserError` where the tokenizer of a curation is missing, or encodes otherwise than that of the run."""
    if not directory.is_dir():
        raise UserError(
            f"{directory} is missing; name a directory in sft.mixture that `h1r curate` wrote, as RUN/curate"
        )
    other = load_tokenizer(directory)
    if other.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{directory} is another tokenizer than that of the run; curate all parts with one tokenizer.path"
        )
    if other.chat_template != tokenizer.chat_template:
        raise UserError(
            f"{directory} has another chat template or system prompt than the run; curate all parts with one [chat]"
        )


def tokenizer_of(recipe: Recipe, run: Run, which: str) -> PreTrainedTokenizerFast:
    """The tokenizer in the checkpoint of a trained model of the run ("sft", "rl"); where it was saved without one, that
    of the data."""
    directory = run.need(f"{which}/model", which)
    return load_tokenizer(directory) if (directory / "tokenizer.json").exists() else saved_tokenizer(recipe, run)


def rl_start(recipe: Recipe, run: Run) -> tuple[str | Path, PreTrainedTokenizerFast]:
    """The checkpoint that RL starts from, and its tokenizer: `rl.checkpoint` with the recipe's [chat], or the run's SFT
    model as it was saved. `UserError` where neither is there."""
    source = recipe.rl.checkpoint
    if source is None:
        return run.need("sft/model", "sft"), tokenizer_of(recipe, run, "sft")
    return source, chat_tokenizer(source, recipe)


def chat_tokenizer(source: str | Path, recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint with the recipe's [chat], its markers, and the end of a turn as its end token."""
    tokenizer = with_chat_format(load_tokenizer(source), recipe.chat)
    if not is_foreign(tokenizer):
        add_control_tokens(tokenizer, (IM_START, IM_END))
    return ending_turns(tokenizer)


def ending_turns(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, whose end token is the one that ends a turn of the model."""
    if tokenizer.eos_token_id is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
    return tokenizer


def for_chat(model: CausalLM, tokenizer: PreTrainedTokenizerFast, source: str | Path, seed: int) -> CausalLM:
    """The model as it is trained on conversations of this tokenizer: a row for each of its tokens, and the end of a
    turn among what ends a sequence. Before kernels are chosen.

    The chat template's markers get rows where the model has none; `UserError` for any other token without one.
    """
    size = 1 + max(tokenizer.get_vocab().values())
    rows = model.config.vocab_size
    if size > rows:
        extra = {token for token, number in tokenizer.get_vocab().items() if number >= rows}
        if not extra <= {IM_START, IM_END}:
            raise UserError(
                f"tokenizer has {counted(size, 'token')} but {source} only {rows}; set tokenizer.path to the "
                "checkpoint's own tokenizer"
            )
        if any(parameter.is_meta for parameter in model.parameters()):
            raise UserError(
                f"{source} has no rows for {', '.join(sorted(extra))}, and weights in shards cannot get any; run "
                "without parallel.shard, or save a checkpoint that has them"
            )
        note(f"{', '.join(sorted(extra))} get rows in the embedding and the head of {source}, near the mean of others")
        model = with_rows(model, -(-size // 16) * 16, seed)
    end, known = end_of_turn(tokenizer), model.config.eos_token_ids
    if end not in known:
        name = tokenizer.convert_ids_to_tokens(end)
        note(f"{name} ({end}) ends a turn, and is added to what ends a sequence of {source}")
        model.config = model.config.replaced(eos_token_id=(end, *known) if known else end)
    return model


def rl_policy(
    recipe: Recipe, source: str | Path, tokenizer: PreTrainedTokenizerFast, world: World = ALONE
) -> tuple[CausalLM, Trained]:
    """The model of a checkpoint as RL trains it (`for_chat`) on this process of `world`, and what its passes are called
    through. Raises as `loaded` does."""
    return _from_checkpoint(recipe, source, tokenizer, world, compute_dtype_of(recipe.rl))


def rl_reference(
    recipe: Recipe, source: str | Path, tokenizer: PreTrainedTokenizerFast, world: World = ALONE
) -> Trained:
    """The model that the KL term holds the policy to: the same checkpoint, in the type that computes, in shards where
    the policy is; it does not change. Raises as `loaded` does."""
    dtype = compute_dtype_of(recipe.rl)
    if world.mesh is not None:
        frozen = _from_checkpoint(recipe, source, tokenizer, world, dtype)[1]
        assert isinstance(frozen, Sharded)
        return frozen.requires_grad_(False)
    model = loaded(source, recipe.model.kernels, tokenizer, recipe.seed, dtype)
    return world.parallelize(model).requires_grad_(False)


def _from_checkpoint(
    recipe: Recipe,
    source: str | Path,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    compute_dtype: torch.dtype | None,
) -> tuple[CausalLM, Trained]:
    # Adapters are fp32 whatever they are added to, so the model itself may be as narrow as it computes.
    master = compute_dtype if recipe.lora.rank or compute_dtype is None else torch.float32
    if world.mesh is None:
        model = for_chat(load(source, master, device=default_device()), tokenizer, source, recipe.seed)
        return _whole(model, recipe, world, compute_dtype)
    model = for_chat(skeleton(source, master), tokenizer, source, recipe.seed)
    return _in_shards(model, source, recipe, world, compute_dtype)


def _whole(
    model: CausalLM, recipe: Recipe, world: World, compute_dtype: torch.dtype | None
) -> tuple[CausalLM, CausalLM | ComputeCopy | Adapted]:
    """A model that this process holds whole, context-parallel where `world` says so, and beside it a copy to compute
    with where it computes in another type, or adapters."""
    model.train()
    trained: CausalLM | ComputeCopy | Adapted = model
    narrow = compute_dtype is not None and compute_dtype != model.dtype
    if recipe.lora.rank:
        trained = Adapted(model.cast(compute_dtype) if compute_dtype and narrow else model, recipe.lora, recipe.seed)
    elif compute_dtype is not None and narrow:
        trained = ComputeCopy(model, compute_dtype)
    computing = world.parallelize(equip(computing_model(trained), recipe.model.kernels))
    if recipe.parallel.checkpoint:
        checkpoint_layers(computing, recipe.parallel.offload)
    return model, trained


def _in_shards(
    model: CausalLM, source: str | Path | None, recipe: Recipe, world: World, compute_dtype: torch.dtype | None
) -> tuple[CausalLM, Trained]:
    """A skeleton in shards, and filled from a checkpoint, or at random."""
    assert world.mesh is not None
    check_whole_weights(recipe)
    model = world.parallelize(model.train())
    if recipe.parallel.checkpoint:
        checkpoint_layers(model, recipe.parallel.offload)
    sharded = world.shard(model, compute_dtype)
    model.to_empty(device=world.mesh.device_type)
    model.tie_weights()
    model.restore_buffers()
    equip(model, recipe.model.kernels, compute_dtype)
    if source is not None:
        load_weights(model, source)
    else:
        fill_random(model, recipe.seed)
    return model, sharded


def fill_random(model: CausalLM, seed: int) -> None:
    """Gives a model in shards the weights of `build(model.config, seed)`, part by part."""
    target = model.state_dict()
    with torch.no_grad():
        for place, part in model.random_parts(model.config, torch.Generator().manual_seed(seed)):
            for name, weight in part.state_dict().items():
                local, rows = own_rows(target[f"{place}.{name}" if place else name])
                local.copy_(weight if rows is None else weight[rows])


def loaded(
    path_or_id: str | Path,
    kernels: str,
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> CausalLM:
    """A checkpoint's model on the default device, with kernels by name (`equip`); with a tokenizer, as it is trained on
    its conversations (`for_chat`). dtype: see `CausalLM.cast`. Raises as `load`, `for_chat` and `equip` do."""
    model = load(path_or_id, device=default_device())
    if dtype is not None:
        model.cast(dtype)
    return equip(model if tokenizer is None else for_chat(model, tokenizer, path_or_id, seed), kernels)


def answering(path_or_id: str | Path, recipe: Recipe) -> CausalLM:
    """`loaded`, to answer with: on a CPU in float32, which the fastest kernels take alone, unless `engine.dtype` says
    what else."""
    in_fp32 = recipe.engine.dtype == "auto" and default_device().type == "cpu"
    return loaded(path_or_id, recipe.model.kernels, dtype=torch.float32 if in_fp32 else None)


def equip(model: CausalLM, kernels: str, dtype: torch.dtype | None = None) -> CausalLM:
    """Sets the kernels of `model` by name and prints which they are. dtype: of the weights in use, where that is not
    the one they are kept in. Raises `UserError` when they cannot run here."""
    chosen = select(kernels, model.device, dtype or model.dtype)
    note(f"kernels: {chosen.name} ({chosen.reason})", repeat=False)
    return model.use(chosen)


def _tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Vocabulary size, rounded up to a multiple of 16 for the matrix kernels, and special ids. The end token stands in
    for padding and beginning where a tokenizer has none."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("the tokenizer has no end token; set eos_token in the tokenizer_config.json of tokenizer.path")
    pad, bos, end = tokenizer.pad_token_id, tokenizer.bos_token_id, end_of_turn(tokenizer)
    return {
        "vocab_size": -(-len(tokenizer) // 16) * 16,
        "pad_token_id": int(eos if pad is None else pad),
        "bos_token_id": int(eos if bos is None else bos),
        "eos_token_id": end,
    }
