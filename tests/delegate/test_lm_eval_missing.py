"""What a newcomer is told who has not installed lm_eval."""

from __future__ import annotations

import runpy
import sys

import pytest


def test_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "h1r.delegate.lm_eval_model", raising=False)
    with pytest.raises(SystemExit, match=r"^h1r: .* run `pip install 'open-h1r\[lm_eval\]'`$"):
        runpy.run_module("h1r.delegate.lm_eval_model", run_name="__main__")
