"""Opens the native engine for `[engine] kind = "native"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Engine
from h1r.engine.source import Source


@contextmanager
def open_native(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]:
    """An engine on the source's model itself."""
    yield NativeEngine(source.model(), tokenizer, section)
