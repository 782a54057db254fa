"""What tokens of a model behind an API cost."""

from __future__ import annotations

from h1r.config.base import NonNegative, Section


class PriceSection(Section):
    """Prices of a model, each for a million tokens."""

    prompt: NonNegative
    """Of the prompt."""
    completion: NonNegative
    """Of the answer, its reasoning included."""
    cached: NonNegative | None = None
    """Of prompt tokens that the provider had cached. Unset: as others of the prompt."""
