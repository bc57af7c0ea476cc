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

"""The engine of the bundle's evaluation: a loader of datalist entries in, scores on the images' own grids out."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.engines import Evaluator
from torch.utils.data import DataLoader

from monai_sa2va.engines.extremes import case_panel, pick_cases
from monai_sa2va.engines.termination import finishing
from monai_sa2va.engines.truth import Truth, phrases_of
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError, Sa2VAError
from monai_sa2va.inferers.image import ImageInferer, check_prompts
from monai_sa2va.metrics.objects import score_object
from monai_sa2va.metrics.summary import Summary
from monai_sa2va.metrics.surface import check_tolerance
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmentation, Segmenter
from monai_sa2va.transforms.intensity import Window
from monai_sa2va.writers.evaluation import CaseRow, EvaluationWriter
from monai_sa2va.writers.results import explain_failure

__all__ = ["CaseEvaluator"]

_log = logging.getLogger(__name__)


class CaseEvaluator(Evaluator):
    """Asks each image of a loader for what its label names, and scores the masks on the image's own grid.

    An image that fails doesn't stop the others: it is logged, and its objects are rows of ``cases.csv`` that say why.
    Where all fail, the run ends with a ``DataError``, after its table is written. After each iteration
    ``state.output["rows"]`` holds a :class:`~monai_sa2va.writers.evaluation.CaseRow` for each object of the batch.

    Args:
        device: where the network runs.
        val_data_loader: of lists of datalist entries without transforms, as
            :func:`~monai_sa2va.data.groups.number_groups` gives them.
        network: with its weights, or with a handler in ``val_handlers`` that loads them when the run starts.
        inferer: applies the network to one picture.
        output_dir: of ``cases.csv``, ``metrics.json`` and ``cases.png``.
        summary: makes means and intervals of the objects' scores.
        surface_tolerance: of the surface Dice, in mm; in pixels where an image doesn't say its spacing.
        question: what is asked for each structure, ``{}`` for its first phrase.
        include_absent: whether phrases for what is not there are asked as well.
        overwrite: whether results of an earlier run may be replaced.
        val_handlers: MONAI or Ignite handlers.
        amp: autocast to bfloat16.
        window: as for :class:`~monai_sa2va.predictor.Segmenter`, like the next one.
        axis: how volumes are sliced.
        include_patient: whether ``cases.csv`` also says whom an image shows, by the entries' ``patient``; without it,
            patients are numbers.

    Raises:
        ConfigError: when the question, the tolerance, the device, the window or the axis can't be used.
        OutputError: when ``output_dir`` can't be written to, or holds results and ``overwrite`` is off.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[Any] | DataLoader,
        network: Sa2VA,
        inferer: ImageInferer,
        output_dir: str | os.PathLike[str],
        summary: Summary | None = None,
        surface_tolerance: float = 2.0,
        question: str = "Segment the {}.",
        include_absent: bool = True,
        overwrite: bool = True,
        val_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        window: str | Mapping[str, Any] | Window = "auto",
        axis: int | str = "auto",
        include_patient: bool = False,
    ) -> None:
        if question.count("{}") != 1 or question.replace("{}", "").count("{"):
            raise ConfigError(f"question {question!r} has no single {{}} where the phrase goes")
        self.network, self.inferer = network, inferer
        self.segmenter = Segmenter(network, device, window=window, inferer=inferer, axis=axis)
        self.summary, self.tolerance = summary or Summary(), check_tolerance(surface_tolerance)
        self.question, self.include_absent = question, include_absent
        self._output = (output_dir, overwrite, include_patient)
        self.rows: list[CaseRow] = []
        self._entries: list[Mapping[str, Any]] = []
        self._threshold: float | None = None
        self._loader = val_data_loader
        super().__init__(
            device=device, val_data_loader=val_data_loader, val_handlers=val_handlers, amp=amp, decollate=False
        )
        self.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        ProgressBar(desc="evaluate").attach(self)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Evaluate everything, and write what was scored, also where the run is interrupted or ended by SIGTERM.

        Files of an earlier run are replaced then; a run that ends before its first case leaves them.

        Args:
            global_epoch: as for MONAI's ``Evaluator``.

        Raises:
            DataError: when no image could be evaluated, or the loader gives no datalist entries.
            OutputError: when an earlier run's files are there and ``overwrite`` is off, or files can't be written.
        """
        self.writer = EvaluationWriter(*self._output)
        self.rows, self._entries = [], []
        with finishing(self._write):
            super().run(global_epoch)

    def check_complete(self) -> None:
        """End a program whose exit code should tell that some images of the last run failed, as the bundle's.

        Raises:
            DataError: when some did.
        """
        cases = self.report()["cases"]
        if cases["failed"]:
            total = cases["scored"] + cases["failed"]
            raise DataError(f"{cases['failed']} of {total} cases failed, see cases.csv")

    def report(self) -> dict[str, Any]:
        """What was evaluated so far, as :class:`~monai_sa2va.metrics.summary.Summary` gives it, and by which settings.

        ``cases`` counts images: ``total`` of the loader's data (``None`` where it doesn't say), ``scored``, ``failed``.
        """
        failed = {row.case for row in self.rows if row.score is None}
        data: Any = getattr(self._loader, "dataset", None)
        scores = [row.score for row in self.rows if row.score is not None]
        return {
            "cases": {
                "total": len(data) if hasattr(data, "__len__") else None,
                "scored": len({row.case for row in self.rows} - failed),
                "failed": len(failed),
            },
            "groups": len({score.group for score in scores}),
            "settings": {
                "question": self.question,
                "include_absent": self.include_absent,
                "surface_tolerance": self.tolerance,
                "presence_threshold": self._threshold,
                **self.summary.settings,
            },
            **self.summary(scores),
        }

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, list[CaseRow]]:
        output: list[CaseRow] = []
        for entry in batchdata if isinstance(batchdata, (list, tuple)) else [batchdata]:
            phrases = _checked_phrases(entry, self.include_absent)
            self._entries.append(entry)
            rows = self._score(entry, phrases, len(self._entries))
            self.rows += rows
            output += rows
        return {"rows": output}

    def _score(self, entry: Mapping[str, Any], phrases: list[str], case: int) -> list[CaseRow]:
        name, group = Path(entry[Keys.IMAGE]).name, entry[Keys.GROUP]
        patient = str(entry.get(Keys.PATIENT, "")) if self.writer.include_patient else ""
        try:
            truth = Truth(entry, self.include_absent)
            found, masks = self._ask(entry[Keys.IMAGE], phrases)
            real, spacing = truth.masks(found.source_grid), _spacing(found)
            scores = [score_object(masks[p], real[p], p, group, self.tolerance, spacing) for p in phrases]
            return [CaseRow(case, name, group, score.prompt, score, patient=patient) for score in scores]
        # one image must not end the evaluation of all others, whatever is wrong with it
        except Exception as error:
            reason = _reason(error, name)
            _log.error("case %d, %s: %s", case, name, reason)
            _log.debug("case %d failed in\n%s", case, _place(error))
            return [CaseRow(case, name, group, phrase, None, reason, patient) for phrase in phrases]

    def _ask(self, image: str, phrases: Sequence[str]) -> tuple[Segmentation, dict[str, np.ndarray]]:
        """What was found, and by phrase the mask on the source's grid."""
        sentences = check_prompts([self.question.format(phrase) for phrase in phrases])
        with torch.autocast(self.segmenter.device.type, dtype=torch.bfloat16, enabled=self.amp):
            found = self.segmenter.segment(image, sentences)
        self._threshold = found.presence_threshold
        # a sentence may be read as naming several structures: their union answers it
        masks = found.on_source_grid()
        belongs = np.array(found.prompts)
        return found, {
            phrase: masks[belongs == sentence].any(axis=0) for phrase, sentence in zip(phrases, sentences, strict=True)
        }

    def _write(self) -> None:
        if self.rows:
            self.writer.write_rows(self.rows)
            self.writer.write_metrics(self.report())
            self.writer.remove_earlier_picture()

    def _finish(self) -> None:
        report = self.report()
        cases, overall = report["cases"], report["overall"]
        failed = [row for row in self.rows if row.score is None]
        if failed:
            names = dict.fromkeys(f"{row.image} (case {row.case})" for row in failed)
            _log.error("failed: %s", ", ".join(names))
        if not cases["scored"]:
            raise DataError(
                f"none of {cases['failed']} images could be evaluated, the first because: {failed[0].error}"
                if failed
                else "there is no image to evaluate; check the datalist's section"
            )
        for name, score in overall["scores"].items():
            if score["mean"] is not None:
                _log.info("%s %s (%d objects)", name, _shown(score), score["objects"])
        for name in ("false_empty", "false_positive"):
            rate = overall[name]
            _log.info("%s %d of %d", name, rate["count"], rate["of"])
        _log.info(
            "evaluated %d images, %d failed; results are in %s", cases["scored"], cases["failed"], self._output[0]
        )
        self._draw()

    def _draw(self) -> None:
        try:
            panels = [
                case_panel(title, row, self.segmenter, *self._again(row))
                for title, row in pick_cases(self.rows).items()
            ]
            if panels:
                self.writer.write_picture(panels)
        # the scores are worth more than their picture
        except Exception as error:
            _log.error("no picture of cases: %s", _reason(error, "the picture of a case"))
            _log.debug("no picture of cases, by\n%s", _place(error))

    def _again(self, row: CaseRow) -> tuple[str, Segmentation, np.ndarray, np.ndarray]:
        """Path, what is found, predicted and true mask of a row, once more, as keeping all masks takes much memory."""
        entry = self._entries[row.case - 1]
        found, masks = self._ask(entry[Keys.IMAGE], phrases_of(entry, self.include_absent))
        real = Truth(entry, self.include_absent).masks(found.source_grid)
        return entry[Keys.IMAGE], found, masks[row.prompt], real[row.prompt]


def _checked_phrases(entry: Any, include_absent: bool) -> list[str]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get(Keys.IMAGE), str) or Keys.GROUP not in entry:
        raise DataError("a batch has no path under 'image' or no 'group'; give entries of number_groups, no transform")
    phrases = phrases_of(entry, include_absent)
    if not phrases:
        raise DataError(f"{Path(entry[Keys.IMAGE]).name} has nothing to ask for; leave such entries out by askable")
    return phrases


def _spacing(found: Segmentation) -> list[float] | None:
    """Distance of neighbours along each axis of the source's grid in mm, where the source says it."""
    affine, shape = found.source_grid.affine, found.source_grid.shape
    return None if affine is None else np.linalg.norm(affine[:3, :3], axis=0)[: len(shape)].tolist()


def _reason(error: Exception, name: str) -> str:
    known = error if isinstance(error, Sa2VAError) else explain_failure(error, name)
    # the text of other errors may hold a path
    text = str(known) if known else f"{name} failed by a {type(error).__name__}; log at level DEBUG to see where"
    return " ".join(text.split())


def _place(error: Exception) -> str:
    """Lines of the program that led to an error, without its text, which may name a patient's folder."""
    return "".join(traceback.format_tb(error.__traceback__))


def _shown(score: Mapping[str, Any]) -> str:
    mean = f"{score['mean']:.3f}"
    return mean if score["low"] is None else f"{mean} ({score['low']:.3f} to {score['high']:.3f})"
