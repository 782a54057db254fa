"""`python -m h1r.sandbox`: the level in force here, and why the stronger ones are not."""

import json
import os
import sys

from h1r.errors import UserError
from h1r.sandbox import cgroups
from h1r.sandbox.levels import choose_level, refusal
from h1r.sandbox.limits import Isolation


def main() -> int:
    levels = (Isolation.GVISOR, Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK, Isolation.RLIMITS)
    report: dict[str, object] = {level.name.lower(): refusal(level) or "works" for level in levels}
    folder, why = cgroups.place()
    report["control groups"] = str(folder) if folder else f"none: {why}"
    report["user of tested code"] = _user()
    try:
        report["in force"] = choose_level().name.lower()
    except UserError as error:
        report["in force"] = f"none: {error}"
    print(json.dumps(report, indent=2))
    return 0 if not str(report["in force"]).startswith("none") else 1


def _user() -> str:
    if os.geteuid() == 0:
        return "one of its own for each sandbox"
    return f"{os.geteuid()}, the caller's; in namespaces with a number of its own"


if __name__ == "__main__":
    sys.exit(main())
