"""Classifiers by path keep, drop and name domains: of scikit-learn and of transformers, both trained or made here."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import pytest
from corpora import corpus_recipe, curated
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from h1r.config import ClassifierSection, Recipe
from h1r.data.curate.rules.classify import open_classifier
from h1r.errors import UserError

MATHS = ["How many apples has Ann after buying 3 more?", "What is the sum of 12 and 30?", "Find the area of a square."]
LIFE = ["Which organ pumps blood?", "What do bees make from nectar?", "Which bird lays the largest egg?"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pipeline = make_pipeline(CountVectorizer(), MultinomialNB())
    pipeline.fit(MATHS + LIFE, ["maths"] * len(MATHS) + ["life"] * len(LIFE))
    joblib.dump(pipeline, tmp_path / "domains.joblib")
    return tmp_path / "domains.joblib"


def recipe(path: Path, classifier: dict[str, object], **corpus: object) -> Recipe:
    rows = [{"prompt": asked, "completion": f"<think>about {n}</think>It is so.", "finish_reason": "stop"}
            for n, asked in enumerate(MATHS + LIFE)]  # fmt: skip
    (path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = corpus_recipe(path).model_dump(mode="json")
    source = {"name": "asked", "kind": "jsonl", "path": "asked.jsonl", "verifier": "", "domain": "other"}
    tree["corpus"] |= {
        "sources": [source],
        "benchmarks": [],
        "traces": {},
        "max_tokens_by": {},
        "mixture": {},
        **corpus,
    }
    curate = {"classifiers": [{"name": "subject", "path": "domains.joblib", **classifier}], "boilerplate_share": 1.0}
    return Recipe.model_validate({**tree, "curate": curate})


def asked_in(stage: Path) -> list[str]:
    return [json.loads(line)["messages"][-2]["content"] for line in (stage / "samples.jsonl").read_text().splitlines()]


def test_only_the_labels_that_are_kept_stay(model: Path, tmp_path: Path) -> None:
    summary, stage = curated(recipe(tmp_path, {"keep": ["maths"]}), tmp_path / "run")
    (row,) = [row for row in summary["table"] if row["step"] == "classifier subject"]
    assert row["reasons"] == {"it is `life`": 3}
    assert asked_in(stage) == MATHS


def test_a_label_must_be_likely_enough(model: Path, tmp_path: Path) -> None:
    found = open_classifier(str(model))(MATHS)
    assert all(one["maths"] > 0.5 for one in found)
    bar = sorted(one["maths"] for one in found)[1]
    summary, stage = curated(recipe(tmp_path, {"label": "maths", "least": bar}), tmp_path / "run")
    assert len(asked_in(stage)) == 2
    (row,) = [row for row in summary["table"] if row["step"] == "classifier subject"]
    assert row["in"] - row["out"] == 4


def test_a_label_becomes_the_domain_of_the_mixture(model: Path, tmp_path: Path) -> None:
    shares = {"domains": ["maths", "life"], "mixture": {"shares": {"maths": 1.0}}}
    summary, stage = curated(recipe(tmp_path, {"sets_domain": True}, **shares), tmp_path / "run")
    assert asked_in(stage) == MATHS
    assert summary["mixture"]["life"]["samples"] == 3


def test_a_label_that_a_classifier_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no label `physics`; it has life, maths"):
        curated(recipe(tmp_path, {"keep": ["physics"]}), tmp_path / "run")


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.joblib").write_bytes(b"no model")
    joblib.dump({"no": "model"}, tmp_path / "other.joblib")
    for path, why in (
        ("broken.joblib", "cannot be loaded"),
        ("other.joblib", "predict_proba"),
        ("none", "no checkpoint directory"),
    ):
        with pytest.raises(UserError, match=why):
            open_classifier(str(tmp_path / path))


def test_a_model_of_transformers_gives_its_labels(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "good", "bad"])}
    plain = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2,
        max_position_embeddings=32, id2label={0: "poor", 1: "fine"}, label2id={"poor": 0, "fine": 1},
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config).train()
    encoded = {"input_ids": torch.tensor([[2], [3]]), "attention_mask": torch.ones(2, 1, dtype=torch.long)}
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        model(**encoded, labels=torch.tensor([1, 0])).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    good, bad = open_classifier(str(tmp_path))(["good", "bad " * 100])
    assert good["fine"] > 0.9
    assert bad["poor"] > 0.9
    assert sum(good.values()) == pytest.approx(1.0)


def test_a_section_is_a_table_of_the_recipe() -> None:
    assert ClassifierSection(name="q", path="m.joblib").least == 0.5
