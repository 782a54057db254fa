"""A base model of somebody else's, taught to chat: it stops at its turn's end, its prompt is the one it was trained
with wherever its directory lies, and what its vocabulary lacks is added or refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import read_weights, training_recipe
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, FalconH1Config, PreTrainedTokenizerFast, Qwen3Config

from h1r.config import EngineSection, Recipe
from h1r.data.chat import IM_END, chat_template, end_of_turn, is_foreign, prompt_ids
from h1r.data.control_tokens import add_control_tokens
from h1r.data.tokenizer import load_tokenizer, with_chat_format
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.evals.answers import generate
from h1r.models import load
from h1r.records import Message, Sample, write_jsonl
from h1r.run.directory import Run
from h1r.train.documents import Document
from h1r.train.sft import sft, weighted_cross_entropy
from h1r.train.start import loaded, rl_start, saved_tokenizer, starting_model

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LETTERS = "abcdefgh"
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


def byte_tokenizer(*special: str, template: str | None = None) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in ("<|endoftext|>", *special)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=template
    )


def base_model(family: str, directory: Path, tokenizer: PreTrainedTokenizerFast, rows: int | None = None) -> Path:
    """A checkpoint as transformers writes it, with random weights."""
    eos = tokenizer.eos_token_id
    shape = {
        "vocab_size": rows or len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256,
        "eos_token_id": eos, "bos_token_id": eos, "pad_token_id": eos, "tie_word_embeddings": family == "qwen3",
    }  # fmt: skip
    mamba = {
        "mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_chunk_size": 16,
        "mamba_norm_before_gate": False, "mamba_rms_norm": True,
    }  # fmt: skip
    torch.manual_seed(3)
    config = FalconH1Config(**shape, **mamba) if family == "falcon_h1" else Qwen3Config(**shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def recipe_for(checkpoint: Path, **sections: dict) -> Recipe:
    optimizer = {"learning_rate": 0.01}
    return training_recipe(
        model={"preset": "", "checkpoint": str(checkpoint), "overrides": {}},
        **{
            "sft": {"optimizer": optimizer, "epochs": 30, "batch_size": 2, "seq_len": 128, "checkpoint_every": 1000},
            "chat": {"system_prompt": None},
            **sections,
        },
    )


def curated_for(recipe: Recipe, path: Path) -> Run:
    """A run whose curation left samples and the checkpoint's tokenizer, as `h1r curate` keeps it."""
    run = Run.open(path, recipe)
    tokenizer = with_chat_format(load_tokenizer(recipe.model.checkpoint), recipe.chat)
    if not is_foreign(tokenizer):
        add_control_tokens(tokenizer, ("<|im_start|>", "<|im_end|>"))
    tokenizer.save_pretrained(run.stage("curate") / "tokenizer")
    samples = [Sample(one, [Message("user", f"Say {one}."), Message("assistant", one * 3)]) for one in LETTERS]
    write_jsonl(path / "curate" / "samples.jsonl", samples)
    return run


@pytest.fixture(scope="module", params=["falcon_h1", "qwen3"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model made from a base whose end token is another one; its checkpoint alone, away from its run."""
    path = tmp_path_factory.mktemp(request.param)
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", template=CHATML)
    recipe = recipe_for(base_model(request.param, path / "base", tokenizer))
    sft(recipe, curated_for(recipe, path / "run"))
    return Path(shutil.copytree(path / "run" / "sft" / "model", path / "copy"))


def asked(trained: Path) -> tuple[PreTrainedTokenizerFast, list[int]]:
    tokenizer = load_tokenizer(trained)
    return tokenizer, prompt_ids(tokenizer, "Say c.")


def test_the_checkpoint_names_the_end_of_a_turn_beside_the_bases_end_token(trained):
    tokenizer, _ = asked(trained)
    wanted = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    for file in ("config.json", "generation_config.json"):
        assert json.loads((trained / file).read_text())["eos_token_id"] == wanted
    assert tokenizer.eos_token == "<|im_end|>"


def test_our_engine_stops_at_the_end_of_the_turn(trained):
    tokenizer, prompt = asked(trained)
    trace = NativeEngine(loaded(trained, "torch"), tokenizer).generate([prompt], GREEDY)[0]
    assert trace.finish_reason == "stop"
    assert tokenizer.decode(trace.token_ids) == "ccc<|im_end|>"


@pytest.mark.parametrize(("stop", "text"), [("c", ""), (("x", "c"), ""), ("cc", ""), ("cd", "ccc"), ((), "ccc")])
def test_stop_strings_of_one_character_end_a_trace_as_longer_ones_do(trained, stop, text):
    tokenizer, prompt = asked(trained)
    params = SamplingParams(temperature=0.0, max_tokens=24, stop=stop)
    trace = NativeEngine(loaded(trained, "torch"), tokenizer).generate([prompt], params)[0]
    assert (trace.text, trace.finish_reason) == (text, "stop")


@pytest.mark.parametrize("wrong", [{"stop": ""}, {"stop": ("a", "")}, {"stop_token_ids": (-1,)}])
def test_stops_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"SamplingParams\.stop.* is out of range"):
        SamplingParams(**wrong)


@pytest.mark.parametrize(("prompt", "more"), [([-1], {}), ([10**9], {}), ([1], {"stop_token_ids": (10**9,)})])
def test_token_ids_out_of_range_are_said_of_their_own_trace(trained, prompt, more):
    tokenizer, ids = asked(trained)
    params = [GREEDY, SamplingParams(temperature=0.0, max_tokens=4, **more)]
    good, bad = NativeEngine(loaded(trained, "torch"), tokenizer).generate([ids, prompt], params)
    assert good.finish_reason == "stop"
    assert bad.finish_reason == "error"
    assert "outside the vocabulary" in (bad.error or "")


def test_documents_with_token_ids_that_the_model_has_not_are_refused(trained):
    model = loaded(trained, "torch")
    with pytest.raises(UserError, match=r"token ids from 1 to 99999, and the model has"):
        weighted_cross_entropy(model, [Document([1, 99999, 2], [0, 1, 1], 1.0)])


def test_transformers_stops_at_the_end_of_the_turn(trained):
    """With nothing but the directory: its own generation config, and the prompt of its own chat template."""
    tokenizer, prompt = asked(trained)
    turns = [{"role": "user", "content": "Say c."}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert ids["input_ids"][0].tolist() == prompt
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    said = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, len(prompt) :].tolist()
    assert tokenizer.decode(said) == "ccc<|im_end|>"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm")
def test_vllm_stops_at_the_end_of_the_turn(trained):
    from h1r.engine.vllm.engine import VLLMEngine

    tokenizer, prompt = asked(trained)
    engine = VLLMEngine(trained, tokenizer, EngineSection(max_sequences=4, prefill_tokens=256), in_process=True)
    try:
        trace = engine.generate([prompt], GREEDY)[0]
    finally:
        engine.close()
    assert (trace.finish_reason, tokenizer.decode(trace.token_ids)) == ("stop", "ccc<|im_end|>")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm")
def test_vllm_itself_stops_there_too(trained):
    """As somebody asks who knows nothing of us: by the directory's generation config."""
    import vllm

    from h1r.engine.vllm.engine import process_kept

    with process_kept(in_process=True):
        engine = vllm.LLM(
            str(trained), dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=2,
            kv_cache_memory_bytes=1 << 28, gpu_memory_utilization=0.05,
        )  # fmt: skip
    params = engine.get_default_sampling_params()
    params.temperature, params.max_tokens = 0.0, 24
    answer = engine.chat([{"role": "user", "content": "Say c."}], params)[0].outputs[0]
    engine.llm_engine.engine_core.shutdown()
    assert (answer.finish_reason, answer.text) == ("stop", "ccc")


def test_a_base_without_the_markers_gets_rows_for_them(tmp_path):
    base = base_model("qwen3", tmp_path / "base", byte_tokenizer())
    recipe = recipe_for(base, chat={"system_prompt": "Be brief."})
    run = curated_for(recipe, tmp_path / "run")
    model, tokenizer = starting_model(recipe, run), saved_tokenizer(recipe, run)
    before, after = read_weights(base)["model.embed_tokens.weight"], model.model.embed_tokens.weight
    assert torch.equal(after[: len(before)], before)
    assert after.shape[0] >= len(tokenizer) == len(before) + 2
    new = after[len(before) : len(tokenizer)]
    assert torch.allclose(new.mean(0), before.mean(0), atol=float(before.std()))
    assert not torch.equal(new[0], new[1])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.eos_token_ids == (end_of_turn(tokenizer), tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    assert prompt_ids(tokenizer, "a").count(tokenizer.convert_tokens_to_ids(IM_END)) == 2
    model(torch.tensor([prompt_ids(tokenizer, "a")]))


def test_rows_are_added_to_an_untied_head_and_to_a_hybrid_model_too(tmp_path):
    base = base_model("falcon_h1", tmp_path / "base", byte_tokenizer())
    recipe = recipe_for(base)
    model = starting_model(recipe, curated_for(recipe, tmp_path / "run"))
    whole = load(base)
    rows = whole.config.vocab_size
    assert model.lm_head.weight.shape == model.model.embed_tokens.weight.shape == (model.config.vocab_size, 64)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(model(ids)[..., :rows], whole(ids), atol=1e-6)


def test_other_tokens_that_the_model_has_no_rows_for_are_refused(tmp_path):
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", "<|more|>")
    recipe = recipe_for(base_model("qwen3", tmp_path / "base", tokenizer, rows=257))
    with pytest.raises(UserError, match=r"tokenizer has 260 tokens but .*base only 257"):
        starting_model(recipe, curated_for(recipe, tmp_path / "run"))


def test_rl_from_a_base_ends_rollouts_at_the_turns_end(tmp_path):
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", template=CHATML)
    base = base_model("qwen3", tmp_path / "base", tokenizer)
    recipe = recipe_for(base, rl={"checkpoint": str(base)})
    source, found = rl_start(recipe, Run.open(tmp_path / "run", recipe))
    model = loaded(source, "torch", found)
    assert model.config.eos_token_ids == (end_of_turn(found), tokenizer.eos_token_id)
    assert found.eos_token == "<|im_end|>"


def test_a_copied_checkpoint_is_asked_as_it_was_trained(tmp_path, monkeypatch):
    """Without a recipe beside it, and whatever other recipes say."""
    tokenizer = with_chat_format(byte_tokenizer("<|im_start|>", "<|im_end|>"), recipe_for(tmp_path).chat)
    tokenizer.chat_template = chat_template("Own words.")
    base = base_model("qwen3", tmp_path / "base", tokenizer)
    prompts: list[list[int]] = []
    monkeypatch.setattr(
        "h1r.rollout.pipeline.RolloutPipeline.stream",
        lambda self, problems, params, asked: iter(prompts.extend(map(list, asked)) or ()),
    )
    generate(str(base), ["Say c."], GREEDY)
    generate(str(base), ["Say c."], GREEDY, {"chat.system_prompt": "Mine."})
    assert prompts == [prompt_ids(tokenizer, "Say c.", "Own words."), prompt_ids(tokenizer, "Say c.", "Mine.")]


def test_data_that_were_encoded_with_another_system_prompt_are_refused_or_keep_their_own(tmp_path):
    base = base_model("qwen3", tmp_path / "base", byte_tokenizer("<|im_start|>", "<|im_end|>"))
    recipe = recipe_for(base, chat={"system_prompt": "Old."})
    data = curated_for(recipe, tmp_path / "old").path / "curate"
    other = recipe_for(base, chat={"system_prompt": "New."}, sft={"data": str(data)})
    with pytest.raises(UserError, match="encoded with another chat template or system prompt"):
        saved_tokenizer(other, Run.open(tmp_path / "new", other))
    for name, chat in (("same", {"system_prompt": "Old."}), ("unset", {"system_prompt": None})):
        kept = recipe_for(base, chat=chat, sft={"data": str(data)})
        tokenizer = saved_tokenizer(kept, Run.open(tmp_path / name, kept))
        assert prompt_ids(tokenizer, "a") == prompt_ids(tokenizer, "a", "Old.")


@pytest.mark.parametrize("given", [None, "Be brief."])
def test_a_foreign_template_is_used_and_carries_the_recipes_system_prompt(tmp_path, given):
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", template=CHATML)
    section = recipe_for(tmp_path, chat={"system_prompt": given}).chat
    for _ in range(2):  # a second time, as a run does that reads its own tokenizer
        tokenizer = with_chat_format(tokenizer, section)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    system = "" if given is None else f"<|im_start|>system\n{given}<|im_end|>\n"
    assert asked == f"{system}<|im_start|>user\na<|im_end|>\n"
    own = with_chat_format(tokenizer, section.model_copy(update={"template": "h1r"}))
    assert own.chat_template == chat_template(given)
