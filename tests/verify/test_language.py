"""Mixed languages: what is one, and what only looks like one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.response import language
from h1r.response.format import check_format
from h1r.response.language import is_mixed, is_one_language
from machine import slowness

ENGLISH = "We add the two numbers and find that the sum is twelve, which is what the question asked for. "
CHINESE = "我们把这两个数相加，得到的和是十二，这正是题目所要求的答案，所以计算到此结束。"
RUSSIAN = "Мы складываем два числа и получаем двенадцать, что и требовалось найти в этой задаче. "


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH * 3 + "总结以上答案",
        ENGLISH + "然后我们得到 " + ENGLISH,
        ENGLISH + RUSSIAN,
        CHINESE + ENGLISH,
        RUSSIAN + CHINESE,
        ENGLISH + "합계는 열둘입니다",
    ],
)
def test_mixtures_are_seen(text: str) -> None:
    assert is_mixed(text)
    assert not is_one_language(f"<think>{text}</think>12")
    assert check_format(f"<think>{text}</think>12")["format"] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        CHINESE,
        RUSSIAN,
        "",
        "12 + 13",
        "By the theorem of Пуанкаре, α ≤ β and ∑ x² ≤ ∞, naïve Größe; the set ℝ.",
        CHINESE + "设 $f(x) = \\sin(x) + \\text{constant}$，则 sin(x) 与 GPU 和 Python 有关。",
        CHINESE + "```python\nfor number in numbers:\n    print(number, total, maximum, minimum)\n```" + CHINESE,
        ENGLISH + 'The word "привет, дорогой друг" means hello, and 「こんにちは世界」 does too.',
        ENGLISH + "See https://ru.wikipedia.org/wiki/Теорема_Пуанкаре_и_прочее for more.",
        ENGLISH + "`переменная_с_длинным_именем` is a name.",
    ],
)
def test_names_notation_code_and_quotations_are_no_mixture(text: str) -> None:
    assert not is_mixed(text)


def test_a_translation_is_no_mixture() -> None:
    assert is_one_language(f"<think>{ENGLISH}</think>{CHINESE}")


def test_what_the_question_is_written_in_may_be_in_the_answer() -> None:
    text = f"<think>{ENGLISH}</think>{ENGLISH} The verb is 跑步, 走路, 跑步, 走路."
    assert not is_one_language(text)
    assert is_one_language(text, "What does 跑步 mean?")
    assert not is_one_language(text, "Что это?")


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_text_is_one_language_or_not(text: str, question: str) -> None:
    for part in (text, f"<think>{text}</think>{text}"):
        assert check_format(part, question)["one_script"] in (0.0, 1.0)
    assert is_one_language(text.encode("ascii", "ignore").decode(), question)


@given(st.text(alphabet="ab é我あ한яαα²∑😀\ud800", max_size=60))
def test_the_early_end_changes_no_verdict(text: str) -> None:
    """What lies outside Latin bounds what lies outside the main writing system, whichever that is."""
    beyond = language._beyond_ascii(text)
    assert beyond == "".join(character for character in text if not character.isascii())
    foreign = language._foreign(language.script_weights(text))[1]
    assert foreign <= sum(language._weights_beside_latin(beyond).values())


@pytest.mark.parametrize("unit", ["`", "$", "\\(", '"', "«", "《", "http://", "```", "中`$"])
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    text = "中文字母表" * 4 + (unit * (300_000 // len(unit)))[:300_000]
    started = time.process_time()
    is_one_language(text)
    assert time.process_time() - started < 2.0 * slowness()
