"""A tracker of your own: a CSV file for each stage.

    h1r demo examples/own_tracker.toml      the files are RUN/trackers/csv/STAGE.csv

The recipe names this file in `plugins` and the tracker in `[[trackers]]`. It runs in a thread of its own: one that
fails or hangs is noted, and the run goes on without it.
"""

import csv
from collections.abc import Mapping

import h1r
from h1r.config import OwnTrackerSection
from h1r.run.trackers.base import TrackedStage


@h1r.tracker("csv")
class CSVTracker:
    def __init__(self, section: OwnTrackerSection, stage: TrackedStage) -> None:
        self._columns = section.options["columns"]
        # A run that goes on adds to the file of the attempt before it.
        self._file = open(stage.directory / f"{stage.stage}.csv", "a" if stage.start_step else "w", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        if not stage.start_step:
            self._writer.writerow(["step", *self._columns])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.writerow([step, *(values.get(name, "") for name in self._columns)])
        self._file.flush()

    def close(self) -> None:
        self._file.close()
