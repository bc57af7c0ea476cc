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

"""MONAI's metrics with the empty cases defined, for one mask or by prompt over an epoch."""

from __future__ import annotations

from monai_sa2va.metrics.bootstrap import Interval, bootstrap_mean
from monai_sa2va.metrics.functional import calculate_dice, calculate_iou, calculate_precision_recall
from monai_sa2va.metrics.handler import PromptMetricHandler
from monai_sa2va.metrics.objects import ObjectScore, score_object
from monai_sa2va.metrics.segmentation import PromptScores, PromptSegmentationMetric
from monai_sa2va.metrics.summary import Summary
from monai_sa2va.metrics.surface import calculate_hd95, calculate_surface_dice

__all__ = [
    "Interval",
    "ObjectScore",
    "PromptMetricHandler",
    "PromptScores",
    "PromptSegmentationMetric",
    "Summary",
    "bootstrap_mean",
    "calculate_dice",
    "calculate_hd95",
    "calculate_iou",
    "calculate_precision_recall",
    "calculate_surface_dice",
    "score_object",
]
