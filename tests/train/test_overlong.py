"""Samples that are longer than a row, and runs that learnt nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from h1r.cli import main
from h1r.config import SFTSection
from h1r.errors import UserError
from h1r.records import Trace
from h1r.train.documents import Document
from h1r.train.idle import IdleSteps, fingerprint
from h1r.train.overlong import without_overlong

END, SEQ_LEN = 7, 10


class Tokenizer:
    eos_token_id = END

    def convert_tokens_to_ids(self, token: str) -> int:
        return END


def documents(whole: int, cut: int) -> list[Document]:
    """`whole` that end within the row, one of them with its last token, and `cut` that do not."""
    lengths = [SEQ_LEN if n == 0 else 4 + n % 5 for n in range(whole)]
    ended = [Document([1] * (length - 1) + [END], [1] * length, 1.0) for length in lengths]
    return ended + [Document([1] * SEQ_LEN, [1] * SEQ_LEN, 1.0)] * cut


def kept(whole: int, cut: int, **keys: object) -> int:
    section = SFTSection(seq_len=SEQ_LEN, **keys)  # type: ignore[arg-type]
    return len(without_overlong(documents(whole, cut), section, Tokenizer()))  # type: ignore[arg-type]


def test_samples_that_lost_their_end_are_counted_and_trimmed_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> str:
        return " ".join(capsys.readouterr().err.split())

    assert kept(6, 3) == 9
    assert "3 of 9 samples are longer than sft.seq_len = 10 and are trimmed" in told()
    assert kept(6, 3, overlong="drop") == 6
    assert "are left out" in told()
    assert kept(6, 0) == 6
    assert told() == ""


def test_too_many_of_them_or_one_that_is_refused_end_the_run() -> None:
    with pytest.raises(UserError, match=r"100 of 100 samples are longer than sft.seq_len = 10, more than"):
        kept(0, 100)
    assert kept(0, 100, max_overlong=1.0) == 100
    with pytest.raises(UserError, match=r"1 of 7 samples .* set sft.overlong to trim or drop"):
        kept(6, 1, overlong="refuse")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_that_are_the_same_bits_after_all_steps_are_no_success(dtype: torch.dtype) -> None:
    model = torch.nn.Linear(5, 3, dtype=dtype)
    idle = IdleSteps("sft", 50, model)
    idle.add(None)
    with pytest.raises(UserError, match="the weights after 1 sft step are those before, bit for bit"):
        idle.check_end(1, model)
    resumed = IdleSteps("sft", 50, torch.nn.Linear(5, 3), idle.counts())
    with pytest.raises(UserError, match="bit for bit"):
        resumed.check_end(1, model)
    with torch.no_grad():
        one = model.weight[1, 2]
        model.weight[1, 2] = torch.nextafter(one, one + 1)
    idle.check_end(1, model)
    IdleSteps("sft", 0, model).check_end(1, model)


def test_weights_in_another_order_are_other_weights() -> None:
    left, right = torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        right.weight.copy_(left.weight[:, [1, 0, 2, 3]])
    assert fingerprint(left) != fingerprint(right)


def test_generate_says_how_many_traces_failed_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answered(*_: object) -> list[Trace]:
        good = Trace(0, 0, [1], "hello", [0.0], [0.0], [0.0], "stop")
        return [good, Trace(0, 1, [], "", [], [], [], "error", error="the model's logits are not finite numbers")]

    monkeypatch.setattr("h1r.evals.answers.generate", answered)
    assert main(["generate", str(tmp_path), "-p", "Hello?"]) == 2
    told = capsys.readouterr()
    assert "hello" in told.out
    assert "1 of 2 traces failed, the first: the model's logits are not finite numbers" in told.err
