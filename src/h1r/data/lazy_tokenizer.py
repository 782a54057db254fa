"""A checkpoint's tokenizer without transformers, whose import takes longer than most answers.

To answer, a tokenizer writes prompts (`chat.py`), encodes and decodes: `tokenizers` does all of it. Anything else that
is asked of it (foreign chat templates, saving, special ids) is transformers' own, imported then.

Only where transformers would read `tokenizer.json` as it is: its own general classes, whose added tokens all stand
there. Everything else is loaded by transformers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenizers import AddedToken, Tokenizer

from h1r.common.files import read_json
from h1r.common.hub import local_directory
from h1r.common.packaged import PREFIX
from h1r.data.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_GENERAL = ("TokenizersBackend", "PreTrainedTokenizerFast")
_SETTINGS = frozenset(
    (
        *("backend", "bos_token", "chat_template", "clean_up_tokenization_spaces", "eos_token", "extra_special_tokens"),
        *("additional_special_tokens", "is_local", "local_files_only", "model_input_names", "model_max_length"),
        *("name_or_path", "pad_token", "tokenizer_class", "unk_token"),
    )
)
"""Keys of tokenizer_config.json that change nothing in `tokenizer.json`, where the tokens they name stand in it."""
_OTHER_FILES = ("added_tokens.json", "special_tokens_map.json", "chat_template.json", "additional_chat_templates")
_LARGE = 100_000
"""Tokens above which transformers looks whether it has to mend the pre-tokenizer of an early Mistral model."""


def load_lazily(path_or_id: str | Path) -> PreTrainedTokenizerFast:
    """The same tokenizer as `load_tokenizer`, to answer with; raises as that does."""
    named = str(path_or_id).startswith(PREFIX) or Path(path_or_id).is_dir()
    directory = local_directory(path_or_id) if named else None
    found = None if directory is None else _read(directory)
    return load_tokenizer(path_or_id) if found is None else cast("PreTrainedTokenizerFast", found)


def _read(directory: Path) -> LazyTokenizer | None:
    """None for a tokenizer that transformers makes more of than its file says."""
    try:
        config = read_json(directory / "tokenizer_config.json")
        backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception:  # of `tokenizers`; what is wrong with the files, `load_tokenizer` says
        return None
    if config.get("tokenizer_class") not in _GENERAL or config.keys() - _SETTINGS or backend.get_vocab_size() > _LARGE:
        return None
    if config.get("clean_up_tokenization_spaces") is not False or config.get("backend", "tokenizers") != "tokenizers":
        return None
    if any((directory / name).exists() for name in _OTHER_FILES):
        return None
    named = [value for name, value in config.items() if name.endswith("_token") and value is not None]
    for name in ("extra_special_tokens", "additional_special_tokens"):
        named += config.get(name) or []
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if not all(isinstance(one, str) and one in added for one in named):
        return None
    file = directory / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
    return LazyTokenizer(directory, backend, template) if template is None or isinstance(template, str) else None


class LazyTokenizer:
    """See the module. Has `transformers.PreTrainedTokenizerFast`'s names, and everything it does not have itself."""

    clean_up_tokenization_spaces = False

    def __init__(self, directory: Path, backend: Tokenizer, chat_template: str | None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend_tokenizer, self.chat_template, self._directory = backend, chat_template, directory

    @cached_property
    def whole(self) -> PreTrainedTokenizerFast:
        """That of transformers."""
        found = load_tokenizer(self._directory)
        found.chat_template = self.chat_template
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """By id."""
        return dict(sorted(self.backend_tokenizer.get_added_tokens_decoder().items()))

    def __call__(self, texts: Any, add_special_tokens: bool = True, **how: Any) -> Any:
        if isinstance(texts, list) and not add_special_tokens and how == {"return_attention_mask": False}:
            found = self.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            return {"input_ids": [one.ids for one in found]}
        return self.whole(texts, add_special_tokens=add_special_tokens, **how)

    def encode(self, text: Any, add_special_tokens: bool = True, **how: Any) -> list[int]:
        """Token ids."""
        if isinstance(text, str) and not (add_special_tokens or how):
            return list(self.backend_tokenizer.encode(text, add_special_tokens=False).ids)
        return list(self.whole.encode(text, add_special_tokens=add_special_tokens, **how))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **how: Any) -> str:
        """The text of token ids."""
        own = isinstance(token_ids, Sequence) and all(type(one) is int for one in token_ids)
        if own and not any(how.values()):
            return str(self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))
        return str(self.whole.decode(token_ids, skip_special_tokens=skip_special_tokens, **how))
