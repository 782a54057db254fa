"""Model text on a terminal commands nothing, and JSON says the same with and without control characters."""

import contextlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.cli import main
from h1r.common.terminal import shown, shown_json

ATTACKS = {
    "a colour": "\x1b[31mred",
    "the title": "\x1b]0;owned\x07",
    "the clipboard": "\x1b]52;c;aGk=\x07",
    "a sequence of one byte": "\x9b2J",
    "what was written is overwritten": "wrong\rright",
    "a bell and a backspace": "a\x07\x08b",
    "another direction": "\u202eabc\u2066",
    "half a surrogate pair": "\ud83d",
    "a line separator": "a\u2028b",
}


def commands(text: str) -> list[str]:
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t"]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_control_characters_are_shown_as_their_escapes(attack: str) -> None:
    assert shown(attack) != attack
    assert not commands(shown(attack))
    assert shown(shown(attack)) == shown(attack)


@given(st.text())
def test_what_is_shown_holds_no_command_and_keeps_the_rest(text: str) -> None:
    assert not commands(shown(text))
    if not commands(text) and text.isascii():
        assert shown(text) == text


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_json_says_the_same(text: str) -> None:
    line = shown_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(line) == {"a": text}
    assert not commands(line)


@pytest.mark.parametrize("flag", [[], ["--json"]], ids=["plain", "json"])
def test_verify_prints_no_command_of_an_answer(flag, tmp_path, capsys) -> None:
    answers = tmp_path / "answers.jsonl"
    lines = [{"prediction": f"\\boxed{{{attack}}}", "reference": "1"} for attack in ATTACKS.values()]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with contextlib.suppress(SystemExit):
        main(["verify", str(answers), *flag])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == len(ATTACKS)
    assert not commands(said.out)
    assert not commands(said.err)


def test_an_error_that_quotes_a_file_prints_no_command(tmp_path, capsys) -> None:
    with contextlib.suppress(SystemExit):
        main(["verify", str(tmp_path / "\x1b[31mnone.jsonl")])
    assert not commands(capsys.readouterr().err)
