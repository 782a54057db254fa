"""datatrove's MinHash deduplication of JSONL files, in one process: its four stages, its default settings.

    PYTHON benchmarks/curation/datatrove_minhash.py INPUT_DIR OUTPUT_DIR     prints JSON

Runs with a Python that has datatrove and not this project: `pip install "datatrove[io,processing]"`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter


def main() -> None:
    source, target = sys.argv[1], Path(sys.argv[2])
    config = MinhashConfig()
    reader = JsonlReader(source, text_key="text", id_key="id")
    stages = {
        "signatures": ([reader, MinhashDedupSignature(output_folder=f"{target}/signatures", config=config)], 1),
        "buckets": (
            [MinhashDedupBuckets(f"{target}/signatures", output_folder=f"{target}/buckets", config=config)],
            config.num_buckets,
        ),
        "cluster": ([MinhashDedupCluster(f"{target}/buckets", output_folder=f"{target}/remove", config=config)], 1),
        "filter": (
            [
                reader,
                MinhashDedupFilter(f"{target}/remove"),
                JsonlWriter(f"{target}/kept", compression=None, expand_metadata=True),
            ],
            1,
        ),
    }
    seconds = {}
    for name, (pipeline, tasks) in stages.items():
        start = time.perf_counter()
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{target}/logs/{name}").run()
        seconds[name] = round(time.perf_counter() - start, 2)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = {
        "seconds": round(sum(seconds.values()), 2),
        "stages": seconds,
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in usage), 2),
        "peak_rss_mb": round(max(one.ru_maxrss for one in usage) / 1024),
    }
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
