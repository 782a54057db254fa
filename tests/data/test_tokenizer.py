from typing import Any

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from h1r.data.chat import IM_END
from h1r.data.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, THINK_TOKENS, load_tokenizer, train_tokenizer
from h1r.errors import UserError

CORPUS = ["<think>\nAdd 12 and 13: 12 + 13 = 25.\n</think>\n\nThe sum is \\boxed{25}.<|im_end|>\n"] * 20 + [
    "Die Größe der Zahl; 数学 и так далее, the number of words is the number of letters"
] * 20


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CORPUS, 400)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in ids(tokenizer, text)]


def test_special_tokens_have_their_fixed_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *THINK_TOKENS]) == list(range(7))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token) == (0, 1, IM_END)


def test_think_tags_survive_decoding_without_special_tokens(tokenizer):
    text = "<think>\na\n</think>\n\nb<|im_end|>"
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True) == "<think>\na\n</think>\n\nb"


def test_digits_signs_and_newlines_never_merge():
    tokenizer = train_tokenizer(["12+12=24;\n\n\n"] * 500, 600)
    assert pieces(tokenizer, "12+12=24;\n\n") == [*"12+12=24;\n\n"]


def test_a_frequent_word_merges_with_the_blank_before_it(tokenizer):
    assert " number" in pieces(tokenizer, "a number")


@given(text=st.text(max_size=200))
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text), clean_up_tokenization_spaces=False) == text


@given(text=st.text(alphabet=st.sampled_from(" \t\n\r.,!?'1aé漢\u0301\u200d<>|think/im_end"), max_size=60))
def test_blanks_and_half_markers_round_trip(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text), clean_up_tokenization_spaces=False) == text


def test_training_is_deterministic(tokenizer):
    again = train_tokenizer(CORPUS, 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_vocabulary_stays_within_its_size(tokenizer):
    assert len(train_tokenizer(CORPUS, 300)) == 300
    assert len(tokenizer) < 400  # the corpus has no more to merge
    assert len(train_tokenizer([], 400)) == MIN_VOCAB_SIZE


def test_too_small_a_vocabulary_is_refused_by_its_key():
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size = 262 .* 263 or more"):
        train_tokenizer(CORPUS, 262)


def test_saved_tokenizer_is_the_same_in_transformers(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "<|im_start|>user\n  The number 12+3?<|im_end|>\n<think>\nwords  и</think>"
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert ids(loaded, text) == ids(tokenizer, text)
        assert loaded.decode(ids(tokenizer, text)) == text
        assert loaded.eos_token_id == tokenizer.eos_token_id
        assert loaded.chat_template == tokenizer.chat_template
        assert loaded.decode([5], skip_special_tokens=True) == "<think>"


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.path"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"tokenizer\.path"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_the_hub_that_cannot_be_had_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers tries for half a minute, and says nothing that a person can mend."""

    def away(name: str, **_: Any) -> str:
        raise OSError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(UserError, match=r"^owner/name is no directory here and could not be fetched .*\(no network\)"):
        load_tokenizer("owner/name")
