#!/usr/bin/env bash
# Checks a release: builds the wheel with its kernels (H1R_LEVELS= : without), installs it into a new environment, and runs the packaged smoke recipe from an
# empty directory, where nothing of the checkout can help: tools/check_wheel.sh [PYTHON]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$python" -m venv "$place/build"
"$place/build/bin/pip" --disable-pip-version-check install -q build
H1R_LEVELS=${H1R_LEVELS-all} "$place/build/bin/python" -m build --wheel --outdir "$place/dist" "$root" >/dev/null
wheel=$(ls "$place"/dist/*.whl)
"$python" -m venv "$place/venv"
# pycosat, which reasoning-gym imports, needs a compiler; tools/pycosat does without one.
"$place/venv/bin/pip" --disable-pip-version-check install -q pycosat -c "$root/constraints.txt" 2>/dev/null ||
  "$place/venv/bin/pip" --disable-pip-version-check install -q "$root/tools/pycosat"
"$place/venv/bin/pip" --disable-pip-version-check install -q "$wheel[demo]" -c "$root/constraints.txt"

mkdir "$place/empty"
cd "$place/empty"
"$place/venv/bin/h1r" --help >/dev/null
"$place/venv/bin/h1r" demo smoke
"$place/venv/bin/python" "$root/.ci/check_report.py" runs/smoke/report.json
echo "$(basename "$wheel") installs and runs its smoke recipe"
