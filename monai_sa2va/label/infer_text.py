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

"""``sa2va_text``: a sentence in, one label an object that it names out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from monai_sa2va.data.read_image import SourceImage
from monai_sa2va.label.infer_task import Sa2VAInferTask
from monai_sa2va.label.one_slice import ask_slice
from monai_sa2va.label.options import TEXT_OPTIONS, choice, flag, sentence, whole_number
from monai_sa2va.label.served_model import ServedModel
from monai_sa2va.predictor import Segmenter
from monai_sa2va.segmentation import Segmentation

__all__ = ["TextTask"]


class TextTask(Sa2VAInferTask):
    """Segments by a sentence, which 3D Slicer and OHIF show as an editable option.

    Args:
        model: the server's.
        labels: names that clients show.
    """

    def __init__(self, model: ServedModel, labels: Sequence[str]) -> None:
        description = "Type a sentence into the option 'text', e.g. 'Segment the vessels and the lesion.'"
        super().__init__(model, labels, InferType.SEGMENTATION, description, TEXT_OPTIONS)

    def segment(self, segmenter: Segmenter, source: SourceImage, request: Mapping[str, Any]) -> Segmentation:
        """Ask in every slice, or in one."""
        text = sentence(request, needed=True)
        mode = "chat" if flag(request, "answer") else "segment"
        number = whole_number(request, "slice")
        if choice(request, "mode", self.options) == "slice" and source.pixels.ndim == 4:
            return ask_slice(segmenter, source, str(text), number, mode)
        return segmenter.segment(source, text, mode=mode)
