# ruff: noqa: E402 (what needs lm_eval is imported where it is known to be there)
"""Our engines as a model of lm_eval: what it scores and generates, beside lm_eval's own transformers model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from h1r.delegate.lm_eval_model import H1RLM, main
from h1r.errors import UserError
from h1r.records import Trace
from small_checkpoint import small_checkpoint

TEXTS = [
    ("What is 1 + 2? It is", " 3"), ("", "one two"), ("a b", " c d e"), ("x", " y" * 100), ("long " * 90, " end"),
    ("ends in a blank ", "and goes on"),
]  # fmt: skip
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 300, do_sample: false}
filter_list:
  - name: boxed
    filter: [{function: regex, regex_pattern: "boxed\\\\{(.*?)\\\\}"}, {function: take_first}]
metric_list: [{metric: exact_match}]
"""


def requests_of(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[H1RLM, HFLM]:
    path = str(small_checkpoint(tmp_path_factory.mktemp("lm") / "model"))
    return H1RLM(path), HFLM(path, dtype="float32", device="cpu", max_length=256)


def test_log_likelihoods_are_those_of_transformers(both: tuple[H1RLM, HFLM], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = both
    monkeypatch.setattr(H1RLM, "max_length", 256)  # windows and truncation are reached
    for kind, arguments in (("loglikelihood", TEXTS), ("loglikelihood_rolling", [(text * 9,) for text, _ in TEXTS])):
        asked = requests_of(kind, arguments)
        found, expected = getattr(ours, kind)(asked), getattr(theirs, kind)(asked)
        if kind == "loglikelihood":
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
            found, expected = [score for score, _ in found], [score for score, _ in expected]
        assert found == pytest.approx(expected, abs=2e-3)
    assert ours.loglikelihood(requests_of("loglikelihood", TEXTS[2:3]))[0] == pytest.approx(
        ours.loglikelihood(requests_of("loglikelihood", TEXTS))[2], abs=1e-5
    )


def test_greedy_generation_is_that_of_transformers(both: tuple[H1RLM, HFLM]) -> None:
    asked = requests_of(
        "generate_until",
        [(text or "a", {"until": ["zz"], "max_gen_toks": 12, "do_sample": False}) for text, _ in TEXTS],
    )
    ours, theirs = both
    found = [text.replace("<|im_start|>", "") for text in ours.generate_until(asked)]  # they leave such tokens out
    assert found == theirs.generate_until(asked, disable_tqdm=True)


def test_a_repeated_request_draws_anew_and_an_unknown_argument_is_refused(both: tuple[H1RLM, HFLM]) -> None:
    drawn = ("a", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8, "seed": 3})
    first, second = both[0].generate_until(requests_of("generate_until", [drawn, drawn]))
    assert first != second
    assert [first, second] == both[0].generate_until(requests_of("generate_until", [drawn, drawn]))
    with pytest.raises(UserError, match="num_beams"):
        both[0].generate_until(requests_of("generate_until", [("a", {"num_beams": 4})]))


def test_thinking_is_no_answer_and_a_lost_trace_ends_the_evaluation(
    both: tuple[H1RLM, HFLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = both[0]
    text = model.apply_chat_template([{"role": "user", "content": "<|im_end|> 1 + 2?"}])
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = model.tok_encode(text)
    assert ids.count(end) == text.count("<|im_end|>\n") == 1
    assert model._encode_pair(text, "3<|im_end|>")[0] == ids
    assert end not in model._encode_pair(text, "3<|im_end|>")[1] + model._encode_pair("a <|im_end|>", " b")[0]
    model._chats.clear()  # as where lm_eval reads its requests from a cache
    asked = requests_of("generate_until", [(text, {"until": ["\n\n"]}), ("1 + 2 =", {"until": ["\n\n"]})])
    said = "<think>one\n\ntwo</think>\n\n3.\n\nNext"

    class Played:
        def __init__(self, reason: Any) -> None:
            self.reason = reason

        def stream(self, prompts: Any, params: Any) -> Any:
            self.params = params
            for index in range(len(prompts)):
                yield Trace(index, 0, [], said, [], [], [], self.reason, 0, error="no slot")

    played = Played("stop")
    monkeypatch.setattr(model, "_rollouts", played)
    assert model.generate_until(asked) == ["3.", said]
    assert [one.stop for one in played.params] == [(), ("\n\n",)]
    assert len({one.seed for one in played.params}) == 2
    said = "<think>one \\boxed{3}"
    assert model.generate_until(asked) == ["", said]
    monkeypatch.setattr(model, "_rollouts", Played("error"))
    with pytest.raises(UserError, match="no slot"):
        model.generate_until(asked)


def test_the_shipped_model_is_evaluated_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"What is {n} + 30 - 7?", "answer": str(n + 23)} for n in (12, 31, 44)]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "sums.yaml").write_text(TASK % data, encoding="utf-8")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)  # those of the package take ten seconds

    def command_line() -> None:
        arguments = {"model": "h1r", "model_args": "pretrained=h1r:small", "device": "cuda:0", "batch_size": 1}
        found.update(
            lm_eval.simple_evaluate(
                **arguments, tasks=["sums"], task_manager=tasks, apply_chat_template=True, bootstrap_iters=0
            )
        )

    found: dict[str, Any] = {}
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", command_line)
    main()
    assert found["results"]["sums"]["exact_match,boxed"] > 0.6
