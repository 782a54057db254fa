import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.data.tokenizer import train_tokenizer
from h1r.scaling.examples import token_strings

TOKENIZER = train_tokenizer(["the sum of 12 and 3 is 15 " * 4], 300)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20))
def test_token_strings_join_to_the_whole_text(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    pieces = token_strings(TOKENIZER, ids)
    assert "".join(pieces) == text
    assert len(pieces) == len(ids)


def test_a_character_spread_over_tokens_stands_with_its_last_token():
    ids = TOKENIZER.encode("a€b", add_special_tokens=False)
    assert token_strings(TOKENIZER, ids) == ["a", "", "", "€", "b"]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_character_cut_off_at_the_end_is_shown_as_broken_once(cut):
    ids = TOKENIZER.encode("a€", add_special_tokens=False)[:-cut]
    assert token_strings(TOKENIZER, ids)[-1] == "\ufffd"


def test_special_tokens_are_shown():
    assert token_strings(TOKENIZER, [TOKENIZER.eos_token_id]) == [TOKENIZER.eos_token]
