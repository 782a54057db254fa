"""The cards that runs are planned for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from h1r.common.prose import listing
from h1r.errors import UserError

NODE = 8
"""Cards that are joined by the fast link."""


@dataclass(frozen=True)
class Card:
    """gb: memory in 10^9 bytes. tflops: dense bf16 with fp32 sums. link: GB/s to the other cards of a node, one way.
    memory: GB/s in which the card reads its own. network: GB/s of a card to other nodes, one way; a 400 Gb/s adapter a
    card where the maker sells such nodes.

    Source: NVIDIA's data sheets.
    """

    name: str
    gb: float
    tflops: float
    link: float
    memory: float
    network: float = 50.0


CARDS = {
    card.name.lower(): card
    for card in (
        Card("A100", 80, 312, 300, 2039, 25),
        Card("H100", 80, 989, 450, 3350),
        Card("H200", 141, 989, 450, 4800),
        Card("B200", 180, 2250, 900, 8000),
        Card("L40S", 48, 362, 32, 864, 25),
        Card("RTX4090", 24, 165, 32, 1008, 12.5),
    )
}


@dataclass(frozen=True)
class Cards:
    """So many of one kind."""

    count: int
    card: Card

    @property
    def bandwidth(self) -> float:
        """Bytes a second in which a card takes part in an exchange with all others."""
        return 1e9 * (self.card.link if self.count <= NODE else self.card.network)


def parse_cards(text: str) -> Cards:
    """`8xH200`, `H200`. Raises `UserError` for what is no number of a known card."""
    number, cross, name = text.strip().lower().partition("x")
    if not (cross and number.isascii() and number.isdigit()):
        number, name = "1", text.strip().lower()
    card = CARDS.get(name)
    if card is None or len(number) > 6 or not int(number):
        names = listing([one.name for one in CARDS.values()])
        raise UserError(f"--gpus {text} is no number of cards; give it as in 8xH200, of {names}")
    return Cards(int(number), card)
