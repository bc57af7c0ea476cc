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

"""The engine of the bundle's inference: a loader of jobs or paths in, a folder of results out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.handlers import ProgressBar
from monai.engines import Evaluator
from torch.utils.data import DataLoader

from monai_sa2va.batch.job import Job, Outcome
from monai_sa2va.batch.lock import refuse_held, run_lock
from monai_sa2va.batch.plan import jobs_of_entries
from monai_sa2va.batch.read_ahead import read_ahead
from monai_sa2va.batch.run import check_output, prepare_output, stop_where_full
from monai_sa2va.batch.shards import Shard
from monai_sa2va.batch.tables import Tables
from monai_sa2va.batch.worker import Opened, Options, Worker, need_writers
from monai_sa2va.engines.termination import finishing, release
from monai_sa2va.errors import DataError
from monai_sa2va.inferers.image import ImageInferer, check_mode, check_prompts
from monai_sa2va.inferers.volume import VolumeInferer, check_context
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter
from monai_sa2va.transforms.intensity import Window
from monai_sa2va.writers.masks import check_formats

__all__ = ["BatchSegmenter"]

_log = logging.getLogger(__name__)


class BatchSegmenter(Evaluator):
    """Segments every image and series of a loader, as :func:`~monai_sa2va.batch.run.run_batch` does.

    What an earlier run has done with the same prompts, options and weights is not done again. An image that fails
    doesn't stop the others: it is logged, and listed in ``summary.csv``; where nothing is done, the run ends with a
    ``DataError``. After each iteration ``state.output["results"]`` holds the
    :class:`~monai_sa2va.batch.job.Outcome` of one image.

    Args:
        device: where the network runs.
        val_data_loader: of :class:`~monai_sa2va.batch.job.Job`, as :func:`~monai_sa2va.batch.plan.plan_jobs` gives
            them, or of entries ``{"image": path}``, without transforms; an entry may bring ``"prompts"`` of its own.
        network: with its weights, or with a handler in ``val_handlers`` that loads them when the run starts.
        inferer: applies the network to one picture.
        prompts: one sentence or several, for entries that bring none.
        output_dir: where results go; made where it isn't there, when the run starts.
        formats: of the masks; ``None``: what suits each source.
        overwrite: whether what an earlier run has done is done again.
        val_handlers: MONAI or Ignite handlers.
        amp: autocast to bfloat16.
        window: as for :class:`~monai_sa2va.predictor.Segmenter`, like the next one.
        axis: how volumes are sliced.
        mode: ``"segment"`` or ``"chat"``, as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
        context: what the language model sees of a cine, as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
        include_patient: as for :func:`~monai_sa2va.writers.results.write_results`; an entry may bring ``"patient"``.
        shard: ``"2/8"`` does the second of eight parts alone, and names its tables so.
        volume_inferer: goes through volumes and cines, as for :class:`~monai_sa2va.predictor.Segmenter`.
        planes: in which planes volumes are asked, likewise.

    Raises:
        PromptError: when a prompt is empty or too long.
        ConfigError: when a format, the device, the window, the axis, the mode, the context or the shard can't be used.
        OutputError: when ``output_dir`` can't be written to, or another run is at it.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[Any] | DataLoader,
        network: Sa2VA,
        inferer: ImageInferer,
        prompts: str | Sequence[str],
        output_dir: str | os.PathLike[str],
        formats: Sequence[str] | None = None,
        overwrite: bool = False,
        val_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        window: str | Mapping[str, Any] | Window = "auto",
        axis: int | str = "auto",
        mode: str = "segment",
        context: str | None = None,
        include_patient: bool = False,
        shard: str | None = None,
        volume_inferer: VolumeInferer | None = None,
        planes: str = "one",
    ) -> None:
        self.prompts = check_prompts(prompts)
        self.options = Options(
            Path(output_dir),
            None if formats is None else check_formats(formats),
            check_mode(mode),
            check_context(context, None if volume_inferer is None else volume_inferer.volume),
            amp,
            overwrite,
            include_patient,
        )
        self.network, self.inferer = network, inferer
        self.segmenter = Segmenter(
            network, device, window=window, inferer=inferer, axis=axis, volume_inferer=volume_inferer, planes=planes
        )
        self.shard = None if shard is None else Shard.parse(shard)
        check_output(output_dir)
        refuse_held(self.options.output_dir, self.shard)
        self.tables = Tables(self.options.output_dir, self.shard)
        self._loader = val_data_loader
        super().__init__(
            device=device, val_data_loader=(), val_handlers=val_handlers, amp=amp, decollate=False, epoch_length=1
        )
        ProgressBar(desc="segment").attach(self)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Segment everything, and write the tables, also where the run is interrupted or ended by SIGTERM.

        Tables of an earlier run are replaced then; a run that ends before its first image leaves them.

        Args:
            global_epoch: as for MONAI's ``Evaluator``.

        Raises:
            DataError: when no image could be segmented, or the loader gives no paths.
            ConfigError: when a format needs what isn't installed.
            OutputError: when the folder or tables can't be written, another run is at it, or the disk is full.
        """
        entries = (entry for batch in self._loader for entry in (batch if isinstance(batch, list) else _apart(batch)))
        jobs = list(jobs_of_entries(entries, self.prompts))
        mine = jobs if self.shard is None else self.shard.pick(jobs)
        need_writers(mine, self.options.formats)
        worker = Worker(self.segmenter, self.options)
        self.tables = Tables(self.options.output_dir, self.shard, {"device": str(self.segmenter.device)})
        self.data_loader, self.state.epoch_length = _Opening(mine, worker), len(mine)
        self._worker = worker
        output = prepare_output(self.options.output_dir)
        with run_lock(output, self.shard), finishing(self._write):
            super().run(global_epoch)
        self._tell()

    def check_complete(self) -> None:
        """End a program whose exit code should tell that some images of the last run failed, as the bundle's.

        Raises:
            DataError: when some were refused or failed.
        """
        failed = len(self.tables.failed)
        if failed:
            raise DataError(f"{failed} of {len(self.tables.outcomes)} images failed, see {self.tables.summary}")

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, list[Outcome]]:
        outcome = self._worker.finish(batchdata)
        # once the weights are there, which a handler may have loaded
        self.tables.about["weights"] = self._worker.weights
        self.tables.add(outcome)
        release()
        if outcome.again:
            _log.warning("%s: [%s] %s", outcome.image, outcome.code, outcome.reason)
        if outcome.error:
            _log.error("%s: %s", outcome.image, outcome.error)
        stop_where_full(outcome)
        return {"results": [outcome]}

    def _write(self) -> None:
        if self.tables.outcomes:
            self.tables.write()

    def _tell(self) -> None:
        failed = self.tables.failed
        _log.info("%s; results are in %s", self.tables.told(), self.options.output_dir)
        if failed:
            _log.error("failed: %s", ", ".join(outcome.image for outcome in failed))
        if self.tables.exit_code == 2:
            raise DataError(self.tables.nothing_done())


class _Opening:
    """Jobs as the engine's data: each is opened while the one before it is computed."""

    def __init__(self, jobs: Sequence[Job], worker: Worker) -> None:
        self._jobs, self._worker = jobs, worker

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Opened]:
        return read_ahead(self._jobs, self._worker.open)


def _apart(batch: Any) -> list[Any]:
    """Entries of a batch that MONAI's or torch's collation has put together."""
    if not isinstance(batch, Mapping) or not isinstance(batch.get("image"), (list, tuple)):
        return list(batch) if isinstance(batch, tuple) else [batch]
    return [{**batch, "image": path} for path in batch["image"]]
