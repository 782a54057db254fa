"""`python -m h1r.cli`."""

import sys

from h1r.cli import main

if __name__ == "__main__":
    sys.exit(main())
