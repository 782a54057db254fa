"""Remakes the README's image from a run: the two figures at the top of its report, beside each other.

    python tools/readme_image.py RUN      writes docs/images/demo.png

Chromium draws them (`apt install chromium`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("pass@1 per problem family", "accuracy against tokens")
WIDTH, HEIGHT, SCALE = 984, 318, 2
"""In pixels of the page, and pixels of the image for one of these."""
PAGE = """<!doctype html><meta charset="utf-8"><style>{style}</style>
<style>html {{ color-scheme: light }} body {{ margin: 0; padding: 0; max-width: none; background: #fff }}
.pair {{ display: flex; gap: 12px; width: {width}px }} .pair svg {{ width: {half}px; height: auto }}</style>
<div class="pair">{figures}</div>"""


def main(run: Path) -> None:
    """Raises `ValueError` where the report lacks a figure, as that of a run which is not whole, or nothing draws it."""
    report = (run / "report.html").read_text(encoding="utf-8")
    figures = []
    for label in LABELS:
        found = re.search(rf'<svg [^>]*aria-label="{re.escape(label)}.*?</svg>', report, re.DOTALL)
        if found is None:
            raise ValueError(f"{run}/report.html has no figure `{label}`; finish the run")
        figures.append(found.group(0))
    style = "".join(re.findall(r"<style>(.*?)</style>", report, re.DOTALL))
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise ValueError("no Chromium is here; apt install chromium")
    with tempfile.TemporaryDirectory() as name:
        page, shot = Path(name) / "page.html", Path(name) / "shot.png"
        page.write_text(
            PAGE.format(style=style, width=WIDTH, half=(WIDTH - 12) // 2, figures="".join(figures)), encoding="utf-8"
        )
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--force-device-scale-factor={SCALE}",
             f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", f"--user-data-dir={name}/profile",
             page.as_uri()], check=True, capture_output=True,
        )  # fmt: skip
        target = ROOT / "docs" / "images" / "demo.png"
        Image.open(shot).convert("RGB").quantize(64).save(target, optimize=True)
    print(f"{target.stat().st_size:>10,}  {target.relative_to(ROOT)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
