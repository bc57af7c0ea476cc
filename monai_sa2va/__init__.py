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

"""Sa2VA for medical imaging: a multimodal LLM names what to segment, SAM2 draws it, MONAI trains and runs both.

The names below are imported when they are first used, so that ``import monai_sa2va`` stays free of torch, monai and
transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_sa2va._lazy import lazy_attributes

if TYPE_CHECKING:
    from monai_sa2va.config import Sa2VAConfig as Sa2VAConfig
    from monai_sa2va.engines.trainer import Sa2VATrainer as Sa2VATrainer
    from monai_sa2va.losses.sa2va_loss import Sa2VALoss as Sa2VALoss
    from monai_sa2va.metrics.functional import calculate_dice as calculate_dice
    from monai_sa2va.metrics.functional import calculate_iou as calculate_iou
    from monai_sa2va.metrics.functional import calculate_precision_recall as calculate_precision_recall
    from monai_sa2va.networks.grounding import GroundingEncoder as GroundingEncoder
    from monai_sa2va.networks.projector import TextHiddenFCs as TextHiddenFCs
    from monai_sa2va.networks.sa2va import Sa2VA as Sa2VA
    from monai_sa2va.predictor import Segmentation as Segmentation
    from monai_sa2va.predictor import Segmenter as Segmenter

    Sa2VAModel = Sa2VA

__version__ = "0.1.0"

_EXPORTS = {
    "GroundingEncoder": "monai_sa2va.networks.grounding",
    "Sa2VA": "monai_sa2va.networks.sa2va",
    "Sa2VAConfig": "monai_sa2va.config",
    "Sa2VALoss": "monai_sa2va.losses.sa2va_loss",
    "Sa2VAModel": "monai_sa2va.networks.sa2va:Sa2VA",
    "Sa2VATrainer": "monai_sa2va.engines.trainer",
    "Segmentation": "monai_sa2va.predictor",
    "Segmenter": "monai_sa2va.predictor",
    "TextHiddenFCs": "monai_sa2va.networks.projector",
    "calculate_dice": "monai_sa2va.metrics.functional",
    "calculate_iou": "monai_sa2va.metrics.functional",
    "calculate_precision_recall": "monai_sa2va.metrics.functional",
}

__all__ = ["__version__", *_EXPORTS]

__getattr__, __dir__ = lazy_attributes(__name__, _EXPORTS)
