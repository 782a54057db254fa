"""Classifiers of a recipe: texts get a label with a probability, which keeps them, drops them, or names their domain.

    model.joblib, model.pkl      a scikit-learn pipeline that takes texts; loading it runs what is in it
    a directory, a hub id        a transformers model for text classification

What a file or model calls a class is its label, as text. Problems that we generated pass unlooked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from h1r.common.hub import local_directory
from h1r.config import ClassifierSection
from h1r.data.curate.drop_log import DropLog
from h1r.data.curate.io.items import BATCH_CHARS, Item, chunks
from h1r.errors import UserError
from h1r.verify.controls import from_generator

Classify = Callable[[Sequence[str]], list[dict[str, float]]]
"""Texts -> for each its labels with their probabilities."""
AT_ONCE = 64
MAX_CHARS = 20_000
"""Of a text its beginning is looked at."""
PICKLED = (".joblib", ".pkl", ".pickle")


def step_of(section: ClassifierSection) -> str:
    """Its name in the drop log."""
    return f"classifier {section.name}"


def classified(items: Iterable[Item], drop_log: DropLog, section: ClassifierSection, root: str = ".") -> Iterator[Item]:
    """Drops what the classifier does not want. `UserError` for a classifier that cannot be loaded, and for labels that
    it does not have."""
    step, classify = step_of(section), open_classifier(str(_place(section.path, root)))
    for chunk in chunks(items, AT_ONCE, BATCH_CHARS, lambda item: len(item.problem.question)):
        asked = [item for item in chunk if not from_generator(item.problem)]
        found = classify([_text(item, section)[:MAX_CHARS] for item in asked]) if asked else []
        shares = {item.ordinal: one for item, one in zip(asked, found, strict=True)}
        for item in chunk:
            drop_log.take(step)
            why = _objection(shares[item.ordinal], section) if item.ordinal in shares else None
            if why is not None:
                drop_log.drop(step, item, why, item.problem.question)
                continue
            if section.sets_domain and item.ordinal in shares:
                item.domain = _best(shares[item.ordinal])
            yield item


def _objection(shares: dict[str, float], section: ClassifierSection) -> str | None:
    """Why a text with these probabilities goes; None where it stays."""
    wanted = [*section.keep, *([section.label] if section.label else [])]
    if missing := [one for one in wanted if one not in shares]:
        raise UserError(f"classifier `{section.name}` has no label `{missing[0]}`; it has {', '.join(sorted(shares))}")
    best = _best(shares)
    if section.keep and best not in section.keep:
        return f"it is `{best}`"
    if section.label and shares[section.label] < section.least:
        return f"`{section.label}` is less likely than {section.least:g}"
    return None


def _best(shares: dict[str, float]) -> str:
    return max(sorted(shares), key=lambda label: shares[label])


def _text(item: Item, section: ClassifierSection) -> str:
    if section.on == "question" or not item.traces:
        return item.problem.question
    return f"{item.problem.question}\n\n{item.traces[0].text}"


def _place(path: str, root: str) -> Path:
    given = Path(path).expanduser()
    return given if given.is_absolute() or not (Path(root) / given).exists() else Path(root) / given


@cache
def open_classifier(path: str) -> Classify:
    """A classifier by its path; one is loaded once in a process."""
    if path.endswith(PICKLED):
        return _of_scikit_learn(Path(path))
    return _of_transformers(local_directory(path) or path)


def _of_scikit_learn(path: Path) -> Classify:
    try:
        import joblib

        model: Any = joblib.load(path)
    except ImportError as error:
        raise UserError(f"classifier {path} needs {error.name}; run `pip install 'open-h1r[curate]'`") from None
    except Exception as error:  # of any kind: the file is a program
        raise UserError(f"classifier {path} cannot be loaded: {type(error).__name__}: {error}") from None
    if not hasattr(model, "predict_proba"):
        raise UserError(f"classifier {path} gives no probabilities (`predict_proba`); train one that does")
    labels = [str(one) for one in model.classes_]

    def classify(texts: Sequence[str]) -> list[dict[str, float]]:
        return [dict(zip(labels, map(float, row), strict=True)) for row in model.predict_proba(list(texts))]

    return classify


def _of_transformers(directory: Path | str) -> Classify:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=False).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"classifier {directory} cannot be loaded: {str(error).splitlines()[0]}") from None
    labels = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    def classify(texts: Sequence[str]) -> list[dict[str, float]]:
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            shares = model(**encoded).logits.softmax(-1).tolist()
        return [dict(zip(labels, row, strict=True)) for row in shares]

    return classify
