#!/usr/bin/env bash
# On a running Ray cluster, RL as `[cluster]` of the recipe says:     launch/ray.sh rl h1r-7b-ray --out /shared/runs/h1r-7b
#
# DASHBOARD is where the cluster takes jobs. The command runs on the head and needs no card. `--resume` does no harm to the
# first start. All nodes must see the run directory and engine.weights_directory. `on_ray.py` is for SFT.
set -euo pipefail
stage=$1 recipe=$2
shift 2
exec ray job submit --address "${DASHBOARD:-http://127.0.0.1:8265}" -- \
    python -m h1r "$stage" "$recipe" --resume "$@"
