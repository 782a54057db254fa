"""What the tokens of an evaluation cost, by the prices in the recipe."""

from __future__ import annotations

from collections.abc import Mapping

from h1r.config import PriceSection

MILLION = 1_000_000


def cost_of(usage: Mapping[str, int], price: PriceSection) -> float:
    """The cost of so many tokens (`records.Trace.usage`), in the currency of the prices, which are for a million."""
    prompt, cached = usage.get("prompt_tokens", 0), usage.get("cached_tokens", 0)
    of_cached = price.prompt if price.cached is None else price.cached
    parts = (prompt - cached) * price.prompt, cached * of_cached, usage.get("completion_tokens", 0) * price.completion
    return sum(parts) / MILLION
