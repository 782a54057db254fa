"""`python -m h1r.verify`: what confines the workers here, and what gets through in spite of it."""

import json
import sys

from h1r.errors import UserError
from h1r.verify.workers.probe import worker_isolation


def main() -> int:
    try:
        level, reached = worker_isolation()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"in force": level, "reached": reached}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
