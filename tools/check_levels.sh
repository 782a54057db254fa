#!/usr/bin/env bash
# Runs the kernels' tests at each of these instruction sets that the processor has: tools/check_levels.sh LEVEL...
# PYTHON names the Python whose h1r is tested: libraries of its wheel, or of a checkout, compiled now.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
tried=0
for level in "$@"; do
  export H1R_ARCH=$level
  if ! said=$("$python" -c 'from h1r.kernels.selection import select; print(select("native").reason)' 2>&1); then
    echo "$level: not tried: ${said##*$'\n'}"
    continue
  fi
  echo "$level: $said"
  "$python" -m pytest -q -p no:cacheprovider tests/model/test_c_structs.py tests/model/test_kernels.py \
    tests/model/test_fused_layer.py tests/model/test_products.py tests/model/test_tile_attention.py \
    tests/engine/test_native_decode.py tests/engine/test_narrow_weights.py
  tried=$((tried + 1))
done
[ "$tried" -gt 0 ]
