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

"""The evaluator: a Sa2VA's masks against the truth, by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from ignite.metrics import Metric
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents, default_metric_cmp_fn
from monai.inferers import Inferer, SimpleInferer
from monai.utils import ForwardMode
from torch.utils.data import DataLoader

from monai_sa2va.engines.trainer import move_to
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError

__all__ = ["Sa2VAEvaluator"]


class Sa2VAEvaluator(Evaluator):
    """Run a Sa2VA over batches with truth; metrics read the masks from ``state.output``.

    Args:
        device: where to run.
        val_data_loader: of batches from :func:`~monai_sa2va.data.collate.sa2va_collate` whose answers are known.
        network: a :class:`~monai_sa2va.networks.sa2va.Sa2VA`.
        key_val_metric: name and metric that decides which weights are the best.
        additional_metrics: further ones.
        metric_cmp_fn: whether the first of two values of the key metric is the better one.
        amp: autocast to bfloat16.
        val_handlers: MONAI or Ignite handlers.
        epoch_length: batches to run; all of the loader's by default.
        inferer: applies the network to a batch; by default ``SimpleInferer``, which just calls it.

    After each iteration ``state.output`` holds ``pred_masks`` and ``gt_masks`` (M, H, W), logits and 0/1 at the
    truth's size, ``object_scores`` (M,) logits, ``names`` (M phrases) and the losses.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: DataLoader,
        network: torch.nn.Module,
        key_val_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        metric_cmp_fn: Callable[[float, float], bool] = default_metric_cmp_fn,
        amp: bool = False,
        val_handlers: Sequence[Any] | None = None,
        epoch_length: int | None = None,
        inferer: Inferer | None = None,
    ) -> None:
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            epoch_length=epoch_length,
            key_val_metric=key_val_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn,
            val_handlers=val_handlers,
            amp=amp,
            mode=ForwardMode.EVAL,
            decollate=False,
        )
        self.network = network
        self.inferer = inferer or SimpleInferer()

    def _iteration(self, engine: Evaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        if batchdata is None or Keys.MASKS not in batchdata:
            raise DataError("a validation batch needs gt_masks; build it with sa2va_collate")
        batch = move_to(batchdata, self.state.device, non_blocking=self.non_blocking)
        self.network.eval()
        with (
            torch.inference_mode(),
            torch.autocast(self.state.device.type, dtype=torch.bfloat16, enabled=self.amp),
        ):
            predictions = self.inferer(batch, self.network)  # type: ignore[arg-type]  # MONAI types one tensor
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        truth = batch[Keys.MASKS]
        logits = F.interpolate(
            predictions[Keys.PRED_MASKS].float(), size=truth.shape[-2:], mode="bilinear", align_corners=False
        )
        output = {key: value for key, value in predictions.items() if key.startswith("loss")}
        # frame f of a sample shows the sample's objects, and padding slots are no objects
        names = [
            sample
            for sample, frames in zip(batch[Keys.NAMES], batch[Keys.FRAMES_PER_BATCH], strict=True)
            for _ in range(frames)
        ]
        rows = [(frame, slot) for frame, sample in enumerate(names) for slot in range(len(sample))]
        frames, slots = (list(index) for index in zip(*rows, strict=True)) if rows else ([], [])
        output[Keys.PRED_MASKS] = logits[frames, slots]
        output[Keys.MASKS] = truth[frames, slots]
        output[Keys.OBJECT_SCORES] = predictions[Keys.OBJECT_SCORES].float()[frames, slots]
        output[Keys.NAMES] = [names[frame][slot] for frame, slot in rows]
        self.state.output = output
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return output
