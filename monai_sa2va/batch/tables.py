# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The tables over a batch: a row a series, a row an object, and what the run itself was."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_sa2va import __version__
from monai_sa2va.batch.job import Outcome, Status
from monai_sa2va.batch.shards import Shard
from monai_sa2va.writers.files import atomic_path
from monai_sa2va.writers.results import sort_rows, write_table

__all__ = ["OBJECT_COLUMNS", "SUMMARY_COLUMNS", "Tables"]

SUMMARY_COLUMNS = ("image", "folder", "status", "modality", "slices", "objects", "found", "code", "reason")
"""Of ``summary.csv``."""
OBJECT_COLUMNS = (
    *("image", "folder", "label", "prompt", "presence", "voxels", "area_mm2", "volume_mm3", "empty_because"),
)
"""Of ``objects.csv``."""


class Tables:
    """What became of the jobs of a run: ``summary.csv``, ``objects.csv`` and ``run.json``.

    Args:
        output_dir: where they go.
        shard: whose they are: ``summary.2-of-8.csv``.
        about: what ``run.json`` tells of the run besides, such as its device.
    """

    def __init__(self, output_dir: Path, shard: Shard | None = None, about: Mapping[str, Any] | None = None) -> None:
        self.output_dir, self.suffix = output_dir, "" if shard is None else shard.suffix
        self.about = dict(about or {})
        self.outcomes: list[Outcome] = []
        self._begun = time.time()

    @property
    def failed(self) -> list[Outcome]:
        """What was refused or failed, in the order of the plan."""
        return [outcome for outcome in self._sorted() if outcome.status in (Status.REFUSED, Status.FAILED)]

    @property
    def counts(self) -> Counter[str]:
        """How many are done, skipped, refused and failed."""
        return Counter(outcome.status.value for outcome in self.outcomes)

    @property
    def earlier(self) -> int:
        """How many were done by an earlier run."""
        return sum(outcome.earlier for outcome in self.outcomes)

    @property
    def again(self) -> int:
        """How many were done again, as results of an earlier run were changed or missing."""
        return sum(bool(outcome.again) for outcome in self.outcomes)

    def add(self, outcome: Outcome) -> None:
        """Note what became of a job."""
        self.outcomes.append(outcome)

    @property
    def summary(self) -> str:
        """Name of the table of series."""
        return f"summary{self.suffix}.csv"

    @property
    def exit_code(self) -> int:
        """0: all that is meant to be segmented is done, now or earlier; 1: some were refused or failed; 2: nothing is
        done, which for a shard is 0 where nothing failed."""  # noqa: D205, D209
        if self.counts["done"]:
            return 1 if self.failed else 0
        return 2 if self.failed or (self.outcomes and not self.suffix) else 0

    def told(self) -> str:
        """The counts in words: ``"segmented 3 of 5 images, 1 of them by an earlier run; 1 refused, 1 skipped"``."""
        counts, total = self.counts, len(self.outcomes)
        earlier = f", {self.earlier} of them by an earlier run" if self.earlier else ""
        if self.again:
            earlier += f", {self.again} again as its results were changed or missing"
        others = [f"{counts[s.value]} {s.value}" for s in Status if s is not Status.DONE and counts[s.value]]
        return f"segmented {counts['done']} of {total} images{earlier}" + ("; " + ", ".join(others) if others else "")

    def nothing_done(self) -> str:
        """Why a run without any result has none."""
        first = next(iter(self.failed), self._sorted()[0])
        reason = first.error or f"[{first.code}] {first.reason}"
        return f"none of {len(self.outcomes)} images could be segmented, the first because: {reason}"

    def rate(self) -> float | None:
        """Seconds a slice of what this run computed; ``None`` where it computed nothing."""
        computed = [outcome for outcome in self.outcomes if outcome.seconds]
        slices = sum(outcome.slices for outcome in computed)
        return sum(outcome.seconds for outcome in computed) / slices if slices else None

    def write(self) -> None:
        """Write the tables of what was done so far; those of an earlier run are replaced.

        The first two are the same whether the run was interrupted and run again or not; ``run.json`` tells what this
        run computed itself.

        Raises:
            OutputError: when they can't be written.
        """
        summary, objects = [], []
        for outcome in self._sorted():
            place = {"image": outcome.image, "folder": outcome.folder}
            done = outcome.status is Status.DONE
            found = sum(item["voxels"] > 0 for item in outcome.objects)
            summary.append(
                {
                    **place,
                    "status": outcome.status.value,
                    "modality": outcome.modality,
                    "slices": outcome.slices,
                    "objects": len(outcome.objects) if done else None,
                    "found": found if done else None,
                    "code": outcome.code,
                    "reason": outcome.reason,
                }
            )
            objects += [{**place, **{k: v for k, v in item.items() if k in OBJECT_COLUMNS}} for item in outcome.objects]
        write_table(self.output_dir / self.summary, SUMMARY_COLUMNS, sort_rows(summary))
        write_table(self.output_dir / f"objects{self.suffix}.csv", OBJECT_COLUMNS, sort_rows(objects))
        with atomic_path(self.output_dir / f"run{self.suffix}.json", overwrite=True) as path:
            path.write_text(json.dumps(self._run(), indent=2) + "\n", encoding="utf-8")

    def _sorted(self) -> list[Outcome]:
        # several workers end in any order
        return sorted(self.outcomes, key=lambda outcome: outcome.number)

    def _run(self) -> dict[str, Any]:
        rate = self.rate()
        return {
            "version": __version__,
            **self.about,
            "seconds": round(time.time() - self._begun, 3),
            "seconds_a_slice": None if rate is None else round(rate, 4),
            "status": {status.value: self.counts[status.value] for status in Status},
            "done_by_an_earlier_run": self.earlier,
            "done_again": [outcome.image for outcome in self._sorted() if outcome.again],
            "computed": [outcome.image for outcome in self._sorted() if outcome.seconds],
        }
