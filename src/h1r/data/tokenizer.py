"""A byte-level BPE tokenizer trained on the project's own samples, split the way Falcon-H1's is.

Pre-tokens, within which alone merges happen (2507.22448, section 2: digit and punctuation splitting):

    newline | one digit | one punctuation mark or symbol | a word, each with the blank before it | a run of other blanks

so that `12 + 3 = 15` is always seven tokens, whatever the corpus. Every byte is in the alphabet: any text round-trips.
Left out: multilingual corpus mixing and the injected LaTeX commands of the published tokenizers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from h1r.common.hub import fetched, is_hub_id, local_directory
from h1r.common.packaged import PREFIX
from h1r.common.prose import counted
from h1r.config import ChatSection
from h1r.data.chat import CHAT_TEMPLATE, IM_END, IM_START, THINK_CLOSE, THINK_OPEN, chat_template, is_foreign
from h1r.data.foreign_template import with_system_prompt
from h1r.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"
BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
SPECIAL_TOKENS = (PAD, BEGIN_OF_TEXT, END_OF_TEXT, IM_START, IM_END)
"""Ids 0 to 4, in this order; decoding may skip them."""
THINK_TOKENS = (THINK_OPEN, THINK_CLOSE)
"""Ids 5 and 6: whole tokens, but text, so that a decoded answer keeps them."""
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS) + len(THINK_TOKENS)

_PRE_TOKEN = r"\n| ?\p{N}| ?[\p{P}\p{S}]| ?[\p{L}\p{M}]+|[^\S\n]+(?= [\p{N}\p{P}\p{S}\p{L}\p{M}])|[^\S\n]+"

_ENDLESS = re.compile(r"\S{1000}|[^\S\n]{1000}")
"""A stretch in which a word may have no end."""
_PART = re.compile(r"[\s\S]{1,65535}(?:(?=\n)|(?<=\S)(?= \S)|\Z)|[\s\S]{1,65536}")
"""Text up to where two pre-tokens meet."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains on `texts`; the result has at most `vocab_size` tokens, fewer when the corpus has no more to merge.

    Deterministic. `eos_token` is `<|im_end|>`, which ends a chat turn. The chat template is set, so that a saved
    directory is whole. Raises `UserError` when `vocab_size` cannot hold all bytes and special tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"tokenizer.vocab_size = {vocab_size} cannot hold the 256 bytes and "
            f"{counted(MIN_VOCAB_SIZE - 256, 'special token')}; set it to {MIN_VOCAB_SIZE} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *THINK_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_markers(texts), trainer)
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_with_think_as_text(tokenizer),
        pad_token=PAD,
        bos_token=BEGIN_OF_TEXT,
        eos_token=IM_END,
        additional_special_tokens=[END_OF_TEXT, IM_START],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "tokenizer*")
"""Of a repository on the hub, what a tokenizer may be read from."""


def load_tokenizer(path_or_id: str | Path) -> PreTrainedTokenizerFast:
    """Loads a tokenizer directory or hub id; `UserError` when there is none, or it is not a fast one.
    Imports transformers, which takes seconds; `lazy_tokenizer.py` has one for where that matters."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    place = local_directory(path_or_id) if str(path_or_id).startswith(PREFIX) else path_or_id
    if not Path(path_or_id).exists() and is_hub_id(str(path_or_id)):  # transformers tries for half a minute
        place = fetched(str(path_or_id), _FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"no tokenizer at {path_or_id} ({reason}); check tokenizer.path") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"the tokenizer at {path_or_id} has no tokenizer.json; give one that has in tokenizer.path")
    return tokenizer


def with_chat_format(tokenizer: PreTrainedTokenizerFast, section: ChatSection) -> PreTrainedTokenizerFast:
    """The same tokenizer, with the template and system prompt that the recipe's [chat] asks for as its own: whoever
    writes a conversation with it, or with a copy of its directory, writes the same. `UserError` for a tokenizer with
    several templates that is to get a system prompt."""
    if section.template == "checkpoint" and is_foreign(tokenizer):
        if section.system_prompt:
            if not isinstance(tokenizer.chat_template, str):
                raise UserError("chat.system_prompt cannot be given to several chat templates; leave it out")
            tokenizer.chat_template = with_system_prompt(tokenizer.chat_template, section.system_prompt)
    elif section.system_prompt is not None or is_foreign(tokenizer) or not tokenizer.chat_template:
        tokenizer.chat_template = chat_template(section.system_prompt)
    return tokenizer


def _without_markers(texts: Iterable[str]) -> Iterable[str]:
    """The stretches between special tokens, which a trainer would otherwise read as text. Long texts come in parts,
    since a character takes hundreds of bytes, and endless words too, since a word takes time quadratic in it."""
    for text in texts:
        for marker in (*SPECIAL_TOKENS, *THINK_TOKENS):
            text = text.replace(marker, "\n")
        yield from _PART.findall(_ENDLESS.sub("\\g<0>\n", text))


def _with_think_as_text(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer makes every added token special; the think tags are not, since answers are checked for them."""
    tree = json.loads(tokenizer.to_str())
    for token in tree["added_tokens"]:
        token["special"] = token["content"] not in THINK_TOKENS
    return Tokenizer.from_str(json.dumps(tree))
