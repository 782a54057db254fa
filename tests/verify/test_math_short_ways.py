"""The short ways of the reader give what its long way gives."""

from hypothesis import given
from hypothesis import strategies as st

from h1r.mathematics.clean import clean
from h1r.mathematics.digits import written
from h1r.mathematics.read import _read
from h1r.response.extract import last_boxed, split_response

DIGITS = st.text("0123456789", min_size=1, max_size=30)
SIGNS = st.sampled_from(["", "-"])
NUMBERS = st.one_of(
    st.builds("{}{}".format, SIGNS, DIGITS),
    st.builds("{}{}.{}".format, SIGNS, DIGITS, DIGITS),
    st.builds("{}\\{}frac{{{}}}{{{}}}".format, SIGNS, st.sampled_from(["", "d", "t"]), DIGITS, DIGITS),
)


@given(NUMBERS)
def test_a_number_in_digits_is_read_as_the_whole_reader_reads_it(text):
    assert written(text) == _read(clean(text), 0)


@given(st.text("0123456789.,-+/ \\frac{}٣３", max_size=12))
def test_what_is_no_number_in_digits_is_left_to_the_whole_reader(text):
    number = written(text)
    assert number is None or number == _read(clean(text), 0)


@given(st.text("ab \\{}$", max_size=12), st.sampled_from([r"\boxed{7}", r"\fbox{7}", r"\framebox{7}", r"\fboxed 7"]))
def test_what_stands_before_the_first_box_does_not_hide_it(before, box):
    assert last_boxed(f"{before} {box}") == "7"


@given(st.lists(st.sampled_from(["<think>", "</think>", "think>", "<", "a "]), max_size=6))
def test_tags_are_found_wherever_they_stand(pieces):
    text = "".join(pieces)
    response = split_response(text)
    is_open = text.rfind("<think>") > text.rfind("</think>")
    assert response.answer == (None if is_open else text.rpartition("</think>")[2])
    assert (response.thinking is None) == ("<think>" not in text and "</think>" not in text)
