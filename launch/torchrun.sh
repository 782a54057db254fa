#!/usr/bin/env bash
# One node, all of its cards:       launch/torchrun.sh sft h1r-7b-8xh200
# Of several nodes, on each:        NODES=32 HEAD=node0 JOB=17 launch/torchrun.sh sft h1r-7b-cluster
#                                   (JOB: any name that two runs on one head do not share)
#
# `--resume` does no harm to the first start, and `--max-restarts` then goes on from the newest checkpoint when a process
# has died. All nodes must see one run directory (give it with --out).
set -euo pipefail
stage=$1 recipe=$2
shift 2
if [ "${NODES:-1}" = 1 ]; then
    # A port that is free and an id of its own: under one port and id a second run would wait for the first, in silence.
    meeting=(--standalone)
else
    meeting=(--rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${JOB:-h1r}")
fi
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${CARDS:-gpu}" --max-restarts "${RESTARTS:-3}" "${meeting[@]}" \
    -m h1r "$stage" "$recipe" --resume "$@"
