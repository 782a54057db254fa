"""What the tokens of a benchmark cost, by the prices in the recipe. They are not part of a result: a price that is
added or corrected later holds for what was measured before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from h1r.common.prose import figures
from h1r.config import EndpointSection

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of money."""

    amount: float
    currency: str


def name_at_api(result: Mapping[str, Any]) -> str | None:
    """The name of the model of an API that a result is of; None for another engine's."""
    return (result.get("of") or {}).get("engine", {}).get("model")


def cost_of(result: Mapping[str, Any], section: EndpointSection) -> Cost | None:
    """The cost of all answers of a result; None without tokens that a server stated, or a price of its model. Answers
    that were asked for again are in it once."""
    usage, price = result.get("usage"), section.prices.get(name_at_api(result) or "")
    if not usage or price is None:
        return None
    cached = usage["cached_tokens"]
    of_cached = price.prompt if price.cached is None else price.cached
    prompt = (usage["prompt_tokens"] - cached) * price.prompt + cached * of_cached
    return Cost((prompt + usage["completion_tokens"] * price.completion) / MILLION, section.currency)


def money(cost: Cost | None) -> str:
    """`0.0123 USD`; empty for None."""
    return "" if cost is None else f"{figures(cost.amount, 4)} {cost.currency}"
