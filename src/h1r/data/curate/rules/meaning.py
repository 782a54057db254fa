"""Questions that mean the same in other words, by the cosine of their embeddings.

Compared are only questions with the same numbers, words of number and comparison, and answer (`keys.exact_keys`): what
differs in these is another problem, whatever a model of meaning says. Within such a block all pairs are compared, up to
`MAX_BLOCK` questions; of a larger one (all that answer "yes" without a number) each is compared with the first ones.

The model is a directory of model2vec (so its `config.json` says), or of sentence-transformers; none comes
with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h1r.common.files import read_json
from h1r.common.hub import local_directory
from h1r.errors import UserError

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""n texts -> (n, d), each row of length 1, or 0 for a text of which the model knows nothing."""
MAX_BLOCK = 2048


@cache
def open_embedder(path: str) -> Embed:
    """The embedder in a directory. `UserError` where it, or its library, is not there."""
    directory = local_directory(path)
    if directory is None:
        raise UserError(f"curate.embedder = `{path}` is no directory here; download it first: hf download {path}")
    config = directory / "config.json"
    known = read_json(config) if config.exists() else {}
    static = known.get("model_type") == "model2vec" or "embedding_dtype" in known  # which its own files alone have
    library = "model2vec" if static else "sentence_transformers"
    try:
        model: Any
        if library == "model2vec":
            from model2vec import StaticModel

            model = StaticModel.from_pretrained(str(directory))
        else:
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(str(directory), trust_remote_code=False)
    except ImportError:
        raise UserError(f"curate.embedder = `{path}` needs {library}; run `pip install {library}`") from None
    except Exception as error:  # of many kinds: files that are missing, damaged, or of another model
        raise UserError(f"curate.embedder = `{path}` cannot be loaded: {type(error).__name__}: {error}") from None

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.asarray(model.encode(list(texts), show_progress_bar=False), dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        return unit

    return embed


def alike(rows: Sequence[tuple[int, str]], embed: Embed, threshold: float) -> Iterator[tuple[int, int]]:
    """(later, earlier) of the (ordinal, question) of one block, in order, whose cosine is at least the threshold."""
    firsts = embed([question for _, question in rows[:MAX_BLOCK]])
    for begin in range(0, len(rows), MAX_BLOCK):
        part = rows[begin : begin + MAX_BLOCK]
        cosines = (embed([question for _, question in part]) if begin else firsts) @ firsts.T
        for place, earlier in zip(*np.nonzero(cosines >= threshold), strict=True):
            if earlier < begin + place and part[place][0] >= 0:
                yield part[place][0], rows[earlier][0]
