"""The mark of tests that multiply on the processor's tile units."""

import pytest

from h1r.kernels.cpu import obstacle, products

NEEDS_TILES = [
    pytest.mark.skipif(obstacle() is not None, reason=str(obstacle())),
    pytest.mark.skipif(obstacle() is None and not products.tiles()[0], reason=products.tiles()[1]),
]
