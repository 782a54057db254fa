import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.data.chat import (
    SYSTEM_PROMPT,
    chat_template,
    encode_sample,
    encode_samples,
    prompt_ids,
    render,
)
from h1r.data.tokenizer import train_tokenizer
from h1r.errors import UserError
from h1r.records import Message, Sample
from machine import slowness

QUESTION = Message("user", "What is 2 + 3?")
ANSWER = Message("assistant", "It is \\boxed{5}.", "Two and three\nmake five.")
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"ü": "<number>"}}}]
TOOL_TURNS = [
    QUESTION,
    Message("assistant", '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>', "I ask."),
    Message("tool", "5"),
    Message("tool", "6"),
    Message("assistant", "\\boxed{5}", "It says 5."),
]
CONVERSATIONS = [
    [QUESTION],
    [QUESTION, ANSWER],
    [QUESTION, ANSWER, Message("user", "And 3 + 3?"), Message("assistant", "6", "Easy.")],
    [QUESTION, Message("assistant", "<think>\nraw\n</think>\n\nten"), Message("user", "why?")],
    [QUESTION, Message("assistant", "no tag </think> ten")],
    [QUESTION, Message("assistant", "plain")],
    [Message("system", "Be brief."), QUESTION, ANSWER],
    [Message("system", ""), QUESTION],
    TOOL_TURNS,
    [Message("user", " blanks \n"), Message("assistant", " \n answer \n", " \n thought \n")],
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["<think>\nTwo and three make five.\n</think>\n\nassistant user: \\boxed{5}"] * 9, 380)


def sample(*messages: Message, **metadata) -> Sample:
    return Sample("p", list(messages), metadata=metadata)


def with_loss(tokenizer, encoded) -> str:
    kept = [token for token, loss in zip(encoded.token_ids, encoded.loss_mask, strict=True) if loss]
    return tokenizer.decode(kept)


def test_render_writes_the_template():
    assert render([QUESTION, ANSWER], "Think.") == (
        "<|im_start|>system\nThink.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nTwo and three\nmake five.\n</think>\n\nIt is \\boxed{5}.<|im_end|>\n"
    )


def test_system_prompt_is_the_papers_by_default_and_absent_when_empty():
    assert render([QUESTION]).startswith(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user")
    assert render([QUESTION], "").startswith("<|im_start|>user")


def test_thinking_of_earlier_turns_is_dropped():
    text = render([QUESTION, ANSWER, QUESTION, Message("assistant", "5", "Again.")], "")
    assert "Two and three" not in text
    assert "<think>\nAgain.\n</think>\n\n5" in text


def test_thinking_stays_at_all_turns_with_tools():
    text = render([*TOOL_TURNS, QUESTION, ANSWER], "")
    assert text.count("<think>") == 3


def test_neighbouring_tool_results_share_a_user_turn():
    assert (
        "<|im_start|>user\n<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response><|im_end|>\n"
        in render(TOOL_TURNS, "")
    )


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("system_prompt", [None, "", "Think."])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_jinja_template_renders_the_same(tokenizer, messages, system_prompt, tools):
    turns = [dataclasses.asdict(message) for message in messages]
    options = {"system_prompt": system_prompt, "tools": tools, "tokenize": False}
    assert tokenizer.apply_chat_template(turns, **options) == render(messages, system_prompt, tools)
    assert (
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, **options)
        == render(messages, system_prompt, tools) + "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "system_prompt", [None, "", "Think.", 'Say "so".\n\\boxed{x}\t\u00e9 \u2028 \U0001f600 {{ no }}']
)
def test_the_template_of_a_trained_model_asks_as_it_was_trained(tokenizer, system_prompt):
    """Without an option, which neither transformers' users nor a server give."""
    template = chat_template(system_prompt)
    for turns in ([QUESTION], [QUESTION, ANSWER, QUESTION], [Message("system", "Own."), QUESTION]):
        asked = tokenizer.apply_chat_template(
            [dataclasses.asdict(turn) for turn in turns], chat_template=template, add_generation_prompt=True,
            tokenize=False,
        )  # fmt: skip
        assert asked == render(turns, system_prompt) + "<|im_start|>assistant\n"


def test_jinja_template_writes_structured_calls_as_the_content_form(tokenizer):
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    assert tokenizer.apply_chat_template(turns, system_prompt="", tokenize=False) == render(
        [Message("user", "q"), Message("assistant", TOOL_TURNS[1].content)], ""
    )


def test_loss_falls_on_the_last_turn_with_its_end(tokenizer):
    encoded = encode_sample(tokenizer, sample(QUESTION, ANSWER, QUESTION, Message("assistant", "5", "Again.")))
    assert with_loss(tokenizer, encoded) == "<think>\nAgain.\n</think>\n\n5<|im_end|>"


def test_loss_falls_on_every_assistant_turn_with_tools(tokenizer):
    text = with_loss(tokenizer, encode_sample(tokenizer, sample(*TOOL_TURNS, tools=TOOLS)))
    assert text.count("<|im_end|>") == 2
    assert "I ask." in text
    assert "It says 5." in text
    assert "tool_response" not in text
    assert "assistant" not in text


def test_encoded_ids_decode_to_the_rendered_text(tokenizer):
    for messages in CONVERSATIONS:
        if messages[-1].role == "assistant":
            encoded = encode_sample(tokenizer, sample(*messages), "Think.")
            assert tokenizer.decode(encoded.token_ids) + "\n" == render(messages, "Think.")


@given(question=st.text(max_size=40), thinking=st.text(max_size=40), answer=st.text(max_size=20))
def test_sample_is_the_prompt_followed_by_what_is_generated(tokenizer, question, thinking, answer):
    encoded = encode_sample(tokenizer, sample(Message("user", question), Message("assistant", answer, thinking)))
    prompt = prompt_ids(tokenizer, question)
    assert encoded.token_ids[: len(prompt)] == prompt
    assert encoded.loss_mask == [0] * len(prompt) + [1] * (len(encoded.token_ids) - len(prompt))
    assert encoded.token_ids[-1] == tokenizer.eos_token_id


def test_no_merge_crosses_the_prompt_border():
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    merging = Tokenizer(models.BPE())
    merging.train_from_iterator(["assistant\nYes"] * 50, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    merging.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging)
    assert len(tokenizer.encode("assistant\nYes")) == 1
    encoded = encode_sample(tokenizer, sample(Message("user", "a"), Message("assistant", "Yes")), "")
    prompt = prompt_ids(tokenizer, "a", "")
    assert encoded.token_ids == prompt + tokenizer.encode("Yes<|im_end|>")


def test_batch_equals_one_by_one(tokenizer):
    samples = [sample(*messages) for messages in CONVERSATIONS if messages[-1].role == "assistant"]
    assert encode_samples(tokenizer, samples) == [encode_sample(tokenizer, one) for one in samples]


def test_sample_without_a_final_assistant_turn_is_refused(tokenizer):
    with pytest.raises(UserError, match="sample `p` does not end with an assistant turn"):
        encode_sample(tokenizer, sample(QUESTION))


def test_thousands_of_samples_encode_in_seconds(tokenizer):
    thinking = "Two and three make five; 12 + 13 = 25.\n" * 10
    samples = [sample(QUESTION, Message("assistant", f"\\boxed{{{n}}}", thinking)) for n in range(3000)]
    start = time.process_time()
    assert len(encode_samples(tokenizer, samples)) == 3000
    assert time.process_time() - start < 10 * slowness()
