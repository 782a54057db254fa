"""The engine that a recipe's `[engine]` asks for, by its registered name.

native    reads the weights of the model in this process
vllm      reads a checkpoint directory; beside a trainer it takes the model's weights again when they have changed
server    is told to read the checkpoint's weights where it has others; beside a trainer it takes them as `vllm` does
endpoint  asks a model that somebody else serves; for callers without a tokenizer, which send messages

A further engine is a class or a function that registers with `h1r.common.engines` (docs/guide/add-an-engine.md):

    @ENGINES.register("mine")
    class Mine:                                           # the protocol of `protocol.py`
        def __init__(self, model: CausalLM, tokenizer: Any, section: EngineSection) -> None: ...

    @ENGINES.register("mine")
    @contextmanager
    def open_mine(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]: ...

A class gets the model in this process, whose weights may be in training: every later request must see them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from h1r.common.engines import ENGINES
from h1r.config import EngineSection
from h1r.engine.protocol import Engine
from h1r.engine.source import Source
from h1r.models import CausalLM


@contextmanager
def open_engine(
    section: EngineSection,
    tokenizer: Any,
    model: CausalLM | Callable[[], CausalLM],
    directory: str | Path | None = None,
    in_training: bool = False,
) -> Iterator[Engine]:
    """An engine until the end of the `with` block.

    model: one in training, whose changes every later request must see; or a function that loads one, called only by an
        engine that needs it in this process. directory: a checkpoint of exactly these weights, where there is one.
    in_training: a trainer gives it further weights (`Engine.load_weights`) though `model` is a function.
    Raises `UserError` for an engine that is not registered, not installed, or that cannot run the model.
    """
    opener, source = ENGINES.require(section.kind), Source(model, directory, in_training or isinstance(model, CausalLM))
    if isinstance(opener, type):
        built = opener(source.model(), tokenizer, section)
        with closing(built) if hasattr(built, "close") else nullcontext(built) as engine:
            yield engine
        return
    with opener(section, tokenizer, source) as engine:
        yield engine
