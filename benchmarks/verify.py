"""How far our verifiers agree with the judgements of others, and how fast they are.

    python benchmarks/verify.py [--json] [--only SECTION ...] [--family FAMILY ...] [--quick]

Families are the modules of `verification/`; `--list` prints them with their sections. Every disagreement is listed with
who is right and why; those that nobody has looked at are marked so. A data set that is missing is reported as missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import pkgutil
import sys
from typing import Any

import verification
from h1r.verify import VerifierPool
from verification.common import Context, Section


def families() -> dict[str, dict[str, Section]]:
    """Family -> its sections, of every module of `verification` that has SECTIONS."""
    found = {}
    for module in pkgutil.iter_modules(verification.__path__):
        sections = getattr(importlib.import_module(f"verification.{module.name}"), "SECTIONS", None)
        if sections:
            found[module.name] = sections
    return found


def main() -> None:
    known = families()
    sections = {name: section for family in known.values() for name, section in family.items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--quick", action="store_true", help="a part of the work, for a first look")
    parser.add_argument("--list", action="store_true", help="print families and sections, and stop")
    parser.add_argument("--family", nargs="+", choices=sorted(known), default=sorted(known), metavar="FAMILY")
    parser.add_argument("--only", nargs="+", choices=sorted(sections), metavar="SECTION")
    arguments = parser.parse_args()
    if arguments.list:
        for name, family in known.items():
            print(f"{name}: {' '.join(family)}")
        return
    logging.disable(logging.WARNING)
    wanted = arguments.only or [name for family in arguments.family for name in known[family]]
    result: dict[str, Any] = {}
    with VerifierPool(workers=1) as pool:
        for name in wanted:
            try:
                result[name] = sections[name](Context(pool, arguments.quick))
            except FileNotFoundError as error:
                result[name] = {"missing": str(error.filename)}
    if arguments.json:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
        return
    for name, found in result.items():
        print(f"\n{name}")
        for key, value in found.items():
            if key == "disagreements":
                print_disagreements(value)
            else:
                print(f"  {key}: {value}")


def print_disagreements(items: list[dict[str, Any]]) -> None:
    for item in items:
        print(f"  {item['id']}: {item['right']}: {item['why']}")
        print(f"    reference {item['reference']!r}, answer {item['answer']!r}, recorded {item['recorded']}")


if __name__ == "__main__":
    main()
