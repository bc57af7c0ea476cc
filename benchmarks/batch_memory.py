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

"""Memory and open files of a batch of many series: ``python benchmarks/batch_memory.py``.

Makes 20 and then 200 small DICOM series, has each lot segmented with random weights by the batch of the command line in
a process of its own, and prints this process' anonymous memory (RssAnon, Linux only) and its open files, each as the
most over the first series after a warm-up and over the last ones. The exit code is 1 where the last series of the most
needed more than 1.05 times what the first needed, or a file more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from dicom_geometry import Kind, make, write
from loading_memory import rss_anon
from scoring import print_table

from monai_sa2va.batch.job import Outcome
from monai_sa2va.batch.plan import plan_jobs
from monai_sa2va.batch.run import outcomes_here, prepare_output, run_batch
from monai_sa2va.batch.tables import Tables
from monai_sa2va.batch.worker import Options, Worker
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

__all__ = ["ALLOWED", "main", "measure"]

ALLOWED = 1.05
"""How many times the memory of the first series the last ones may need."""

_WARM_UP, _COMPARED = 5, 10


def measure(series: int, preset: str, folder: Path) -> dict[str, float]:
    """Segment so many series in this process.

    Args:
        series: at least 16, of which the first 5 are the warm-up.
        preset: geometry of the network.
        folder: empty; gets the series and the results.

    Returns:
        ``first`` and ``last``, the most bytes over ten series, and ``first_files`` and ``last_files``.

    Raises:
        RuntimeError: when a series was not segmented.
    """
    for number in range(series):
        place = folder / "data" / str(number)
        place.mkdir(parents=True)
        write(make(Kind("axial", "ascending", "isotropic", "CT", number)), place)
    output = prepare_output(folder / "out")
    worker = Worker(Segmenter(Sa2VA(preset, seed=0), device="cpu"), Options(output))
    memory: list[int] = []
    files: list[int] = []

    def note(outcome: Outcome) -> None:
        if outcome.error:
            raise RuntimeError(f"{outcome.image}: {outcome.error}")
        memory.append(rss_anon())
        files.append(len(os.listdir("/proc/self/fd")))

    run_batch(outcomes_here(worker, plan_jobs(folder / "data", "Segment the ball.")), Tables(output), note)
    first, last = slice(_WARM_UP, _WARM_UP + _COMPARED), slice(-_COMPARED, None)
    return {
        "first": max(memory[first]),
        "last": max(memory[last]),
        "first_files": max(files[first]),
        "last_files": max(files[last]),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        1 where the last series of the most needed more than the first, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", help="geometry, see monai_sa2va.networks.presets")
    parser.add_argument("--series", type=int, nargs="+", default=[20, 200], help="of the batches, fewest first")
    parser.add_argument("--measure", action="store_true", help="only the first batch, in this process; prints JSON")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    if arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.series[0], arguments.preset, Path(folder))))
        return 0
    rows, failed = [], False
    for series in arguments.series:
        command = [sys.executable, __file__, "--measure", "--preset", arguments.preset, "--series", str(series)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        ratio = found["last"] / found["first"]
        failed = ratio > ALLOWED or found["last_files"] > found["first_files"]
        rows.append(
            [series, found["first"] / 1e6, found["last"] / 1e6, ratio, found["first_files"], found["last_files"]]
        )
    print_table(
        f"{arguments.preset}: a batch's first {_COMPARED} series after {_WARM_UP}, and its last {_COMPARED}",
        ["series", "first MB", "last MB", "ratio", "first files", "last files"],
        rows,
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
