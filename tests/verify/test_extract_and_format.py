import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.response.extract import MAX_BOXED_CHARS, last_boxed, split_response, unwrap
from h1r.response.format import check_format, is_well_formed
from h1r.response.language import is_mixed
from h1r.response.repetition import repeated_share
from machine import slowness


def test_answer_is_what_follows_the_last_closing_tag():
    response = split_response("<think>a</think> b </think> c")
    assert (response.thinking, response.answer) == ("a</think> b ", " c")


def test_unclosed_thinking_has_no_answer():
    assert split_response("<think> \\boxed{1}").answer is None
    assert split_response("<think>a</think>b<think>c \\boxed{1}").answer is None


def test_text_without_tags_is_all_answer():
    response = split_response("\\boxed{1}")
    assert (response.thinking, response.answer) == (None, "\\boxed{1}")


def test_prefilled_thinking_closes():
    assert split_response("reasons</think>5").answer == "5"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ \{1,2\} }", r"\{1,2\}"),
        (r"\boxed{\left\{ x }", r"\left\{ x"),
        (r"\boxed {3}", "3"),
        (r"\fbox{3}", "3"),
        (r"\fbox{$\frac{3}{5}$}", r"$\frac{3}{5}$"),
        (r"$\boxed 3$", "3"),
        (r"so $\boxed\frac{3}{5}$.", r"\frac{3}{5}"),
        (r"\boxed 12 is it", "12"),
        (r"put it in \boxed as $x$ says", None),
        ("(a) \\boxed{3}\n(b) \\boxed{8}", "(a) 3, (b) 8"),
        ("(a) We add.\n\\boxed{3}\n\n**(b)** Now for the rest:\n$$\\boxed{8}$$", "(a) 3, (b) 8"),
        ("(b) \\boxed{3}\n(a) \\boxed{8}", "8"),
        ("(a) \\boxed{3}\n\\boxed{8}", "8"),
        (r"\boxedtext{3}", None),
        (r"\fboxed{3}", "3"),
        (r"\boxed{x=\boxed{5}}", "5"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3"),
        (r"\boxed{(1,2)},\ \boxed{(2,1)}", "(1,2), (2,1)"),
        (r"$$\boxed{2} \text{ or } \boxed{3}$$", "2, 3"),
        (r"\boxed{1}. \boxed{2}", "2"),
        ("\\boxed{5}\n\n\\boxed{5}", "5"),
        (r"\boxed{1}, and thus \boxed{2}", "2"),
        (r"\boxed{}", None),
        (r"\boxed", None),
        ("5", None),
    ],
)
def test_last_box_is_brace_matched(text, content):
    assert last_boxed(text) == content


@given(st.recursive(st.text(alphabet="a1 ,", max_size=4), lambda inner: inner.map(lambda text: "{" + text + "}x")))
def test_balanced_content_comes_back_whole(content):
    assert last_boxed(f"so \\boxed{{{content}}} done}}") == (content.strip() or None)


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 500_000, "{" * 4_000_000, "\\boxed" + " " * 4_000_000, "\\boxed  " * 400_000, "<think>" * 500_000],
)
def test_extraction_is_linear(text):
    start = time.process_time()
    split_response(text)
    last_boxed(text)
    unwrap(text[:10_000])
    assert time.process_time() - start < 3 * slowness()


def test_a_box_is_read_up_to_its_longest_content_and_no_further():
    longest = "1" * MAX_BOXED_CHARS
    assert last_boxed(rf"\boxed{{{longest}}}") == longest
    assert last_boxed(rf"\boxed{{{longest}1}}") is None
    assert last_boxed(rf"\boxed{{{longest}1}}, \boxed{{2}}") == "2"
    escaped = "1" * (MAX_BOXED_CHARS - 2) + r"\}"
    assert last_boxed(rf"\boxed{{{escaped}}}") == escaped


def test_unwrap_removes_typesetting_of_the_whole_only():
    assert unwrap(r" $\text{Alice}$ ") == "Alice"
    assert unwrap(r"\text{a} + \text{b}") == r"\text{a} + \text{b}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\na\n</think>\n\nb", True),
        ("\n <think>a</think>b", True),
        ("<think> </think>b", False),
        ("<think>a</think> \n", False),
        ("b", False),
        ("<think>a", False),
        ("a</think>b", False),
        ("x<think>a</think>b", False),
        ("<think>a</think>b</think>c", False),
        ("<think><think>a</think>b", False),
    ],
)
def test_well_formed_is_thinking_then_answer(text, expected):
    assert is_well_formed(text) is expected


@pytest.mark.parametrize("loop", ["1 ", "a", "wait, let me check again. ", "12 + 13 = 25\n"])
def test_loops_are_degenerate(loop):
    text = f"<think>We begin with a plan. {loop * 1000}</think>5"
    assert repeated_share(text) > 0.8
    assert check_format(text)["format"] == 0.0


def test_step_by_step_work_is_not_degenerate():
    steps = "".join(
        f"Step {n}: add {n} to {n * (n - 1) // 2}, which gives {n * (n + 1) // 2}.\n" for n in range(1, 200)
    )
    assert repeated_share(steps) < 0.1


@pytest.mark.parametrize(
    ("text", "mixed"),
    [
        ("Let α = β² and ∑ x ≤ ∞, naïve Größe", False),
        ("Пусть x равно пяти, тогда ответ десять", False),
        ("数字を足すと十になる", False),
        ("We add the numbers 然后我们得到 and so on", True),
        ("12 + 13", False),
    ],
)
def test_mixed_scripts_are_seen_and_notation_is_not(text, mixed):
    assert is_mixed(text) is mixed
