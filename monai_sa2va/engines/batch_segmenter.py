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

"""The engine of the bundle's inference: a loader of paths in, a folder of results out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.engines import Evaluator
from torch.utils.data import DataLoader

from monai_sa2va.engines.termination import finishing
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.inferers.image import ImageInferer, check_mode, check_prompts
from monai_sa2va.inferers.volume import check_context
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter
from monai_sa2va.transforms.intensity import Window
from monai_sa2va.writers.results import ResultWriter, Written

__all__ = ["BatchSegmenter"]

_log = logging.getLogger(__name__)


class BatchSegmenter(Evaluator):
    """Segments every image of a loader by the same prompts, through :class:`~monai_sa2va.predictor.Segmenter`.

    An image that fails doesn't stop the others: it is logged, and listed in ``summary.csv``; where all fail, the run
    ends with a ``DataError``. After each iteration ``state.output["results"]`` holds a
    :class:`~monai_sa2va.writers.results.Written` for each image of the batch.

    Args:
        device: where the network runs.
        val_data_loader: of entries ``{"image": path}``, such as :func:`~monai_sa2va.data.read_image.list_images`
            gives, without transforms; an entry may bring ``"prompts"`` of its own.
        network: with its weights, or with a handler in ``val_handlers`` that loads them when the run starts.
        inferer: applies the network to one picture.
        prompts: one sentence or several.
        output_dir: as for :class:`~monai_sa2va.writers.results.ResultWriter`, like the next two.
        formats: of the masks.
        overwrite: whether results of an earlier run may be replaced.
        val_handlers: MONAI or Ignite handlers.
        amp: autocast to bfloat16.
        window: as for :class:`~monai_sa2va.predictor.Segmenter`, like the next one.
        axis: how volumes are sliced.
        mode: ``"segment"`` or ``"chat"``, as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
        context: what the language model sees of a cine, as for :meth:`~monai_sa2va.predictor.Segmenter.segment`.
        include_patient: as for :class:`~monai_sa2va.writers.results.ResultWriter`; an entry may bring ``"patient"``.

    Raises:
        PromptError: when a prompt is empty or too long.
        ConfigError: when a format, the device, the window, the axis, the mode or the context can't be used.
        OutputError: when ``output_dir`` can't be written to.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[Any] | DataLoader,
        network: Sa2VA,
        inferer: ImageInferer,
        prompts: str | Sequence[str],
        output_dir: str | os.PathLike[str],
        formats: Sequence[str] = ("png", "nifti"),
        overwrite: bool = True,
        val_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        window: str | Mapping[str, Any] | Window = "auto",
        axis: int | str = "auto",
        mode: str = "segment",
        context: str | None = None,
        include_patient: bool = False,
    ) -> None:
        # self.mode is MONAI's
        self.prompts, self.answer_mode = check_prompts(prompts), check_mode(mode)
        self.context = check_context(context)
        self.network, self.inferer = network, inferer
        self.segmenter = Segmenter(network, device, window=window, inferer=inferer, axis=axis)
        self._output = (output_dir, tuple(formats), overwrite, include_patient)
        self.writer = ResultWriter(*self._output)
        super().__init__(
            device=device, val_data_loader=val_data_loader, val_handlers=val_handlers, amp=amp, decollate=False
        )
        self.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        ProgressBar(desc="segment").attach(self)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Segment everything, and write the tables, also where the run is interrupted or ended by SIGTERM.

        Tables of an earlier run are replaced then; a run that ends before its first image leaves them.

        Args:
            global_epoch: as for MONAI's ``Evaluator``.

        Raises:
            DataError: when no image could be segmented, or the loader gives no paths.
            OutputError: when an earlier run's tables are there and ``overwrite`` is off, or tables can't be written.
        """
        self.writer = ResultWriter(*self._output)
        with finishing(self._write):
            super().run(global_epoch)

    def check_complete(self) -> None:
        """End a program whose exit code should tell that some images of the last run failed, as the bundle's.

        Raises:
            DataError: when some did.
        """
        failed = len(self.writer.failed)
        if failed:
            raise DataError(f"{failed} of {len(self.writer.results)} images failed, see summary.csv")

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, list[Written]]:
        output = []
        for path, prompts, patient in _asked(batchdata, self.prompts):
            with torch.autocast(self.segmenter.device.type, dtype=torch.bfloat16, enabled=self.amp):
                result = self.writer.process(
                    self.segmenter, path, prompts, patient=patient, mode=self.answer_mode, context=self.context
                )
            if result.error:
                _log.error("%s: %s", result.image, result.error)
            output.append(result)
        return {"results": output}

    def _write(self) -> None:
        if self.writer.results:
            self.writer.close()

    def _finish(self) -> None:
        failed = self.writer.failed
        total = len(self.writer.results)
        _log.info("segmented %d of %d images; results are in %s", total - len(failed), total, self._output[0])
        if failed:
            _log.error("failed: %s", ", ".join(result.image for result in failed))
        if total and len(failed) == total:
            raise DataError(f"none of {total} images could be segmented, the first because: {failed[0].error}")


def _asked(batch: Any, prompts: Sequence[str]) -> list[tuple[str, Sequence[str], str | None]]:
    """Path, prompts and patient of each entry: its own prompts where it has some."""
    asked: list[tuple[str, Sequence[str], str | None]] = []
    for entry in batch if isinstance(batch, (list, tuple)) else [batch]:
        image = entry.get(Keys.IMAGE) if isinstance(entry, Mapping) else None
        own = entry.get(Keys.PROMPTS) if isinstance(entry, Mapping) else None
        patient = entry.get(Keys.PATIENT) if isinstance(entry, Mapping) else None
        paths: Sequence[Any] = image if isinstance(image, (list, tuple)) else [image]
        if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
            raise DataError(
                "a batch has no path under 'image'; give the dataset entries {'image': path} and no transform"
            )
        asked += [(os.fspath(path), prompts if own is None else own, patient) for path in paths]
    return asked
