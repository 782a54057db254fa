"""`python -m h1r` is the `h1r` program; under torchrun all processes train together."""

from __future__ import annotations

import os
import sys

from h1r.cli import main
from h1r.common.orphans import end_with_parent

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun sets both
        end_with_parent()
        from h1r.train.parallel.launch import lead_or_follow

        sys.exit(lead_or_follow(main))
    sys.exit(main())
