"""The old place of `h1r.sandbox`: `python -m h1r.verify.sandbox` still prints its report."""

import sys

from h1r.sandbox.__main__ import main

if __name__ == "__main__":
    print("h1r.verify.sandbox has moved: use python -m h1r.sandbox", file=sys.stderr)
    sys.exit(main())
