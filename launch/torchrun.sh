#!/usr/bin/env bash
# One node, all of its cards:       launch/torchrun.sh sft h1r-7b-8xh200
# Of several nodes, on each:        NODES=32 HEAD=node0 launch/torchrun.sh sft h1r-7b-cluster
#
# `--resume` does no harm to the first start, and `--max-restarts` then goes on from the newest checkpoint when a process
# has died. All nodes must see one run directory (give it with --out).
set -euo pipefail
stage=$1 recipe=$2
shift 2
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${CARDS:-gpu}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29500}" --rdzv-id "${JOB:-h1r}" \
    -m h1r "$stage" "$recipe" --resume "$@"
