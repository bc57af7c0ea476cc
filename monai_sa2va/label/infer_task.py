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

"""What the two tasks have in common: a request becomes a label file and what the model says."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monai_sa2va.data.read_image import SourceImage, read_image
from monai_sa2va.label.options import RequestError, merge, window_of
from monai_sa2va.label.results import describe, label_map, write_label
from monai_sa2va.label.served_model import ServedModel
from monai_sa2va.predictor import Segmenter
from monai_sa2va.segmentation import Segmentation

__all__ = ["BY_PLACE", "Sa2VAInferTask"]

BY_PLACE: ContextVar[bool] = ContextVar("by_place", default=False)
"""Whether who asked gets a label map without names, and knows objects by the places of the server's labels alone."""

_LOG = logging.getLogger(__name__)


class Sa2VAInferTask(InferTask):
    """A task around the server's one network.

    Args:
        model: the server's.
        labels: names that clients show; their places are the values of label maps that go out without names.
        kind: by which clients choose where to show it.
        description: for clients.
        options: what may be set, with defaults.
    """

    def __init__(
        self, model: ServedModel, labels: Sequence[str], kind: InferType, description: str, options: Mapping[str, Any]
    ) -> None:
        super().__init__(kind, list(labels), 3, description, dict(options))
        self.model, self.options = model, dict(options)

    def is_valid(self) -> bool:
        """Whether it can be offered."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request.

        Args:
            request: ``image`` (path of a file), the options, and what
                :func:`~monai_sa2va.label.results.write_label` takes.

        Returns:
            The label file, and what :func:`~monai_sa2va.label.results.describe` says, with ``model`` (version and hash)
            and ``latencies`` in seconds (``wait`` for other requests, ``read``, ``infer``, ``write``, ``total``).

        Raises:
            Sa2VAError: when the request can't be answered; its message is one line for the user.
        """
        began = time.perf_counter()
        asked = merge(self.options, request)
        window = window_of(asked, self.options)
        with self.model.use(window) as segmenter:
            ready = time.perf_counter()
            source = _read(request.get("image"))
            read = time.perf_counter()
            found = self.segment(segmenter, source, asked)
            about = self.model.used()
        inferred = time.perf_counter()
        drawn = label_map(found, self.labels_for(found, asked))
        answer = {**describe(found, drawn), "model": about}
        file = write_label(drawn, found, asked)
        done = time.perf_counter()
        times = {"wait": ready - began, "read": read - ready, "infer": inferred - read, "write": done - inferred}
        answer["latencies"] = {name: round(value, 4) for name, value in {**times, "total": done - began}.items()}
        _LOG.info("%d objects in %.2f s", len(found.labels), done - began)
        return file, answer

    @abstractmethod
    def segment(self, segmenter: Segmenter, source: SourceImage, request: Mapping[str, Any]) -> Segmentation:
        """Answer a merged request."""

    def labels_for(self, found: Segmentation, request: Mapping[str, Any]) -> Sequence[str]:
        """Names whose places are the values of the label map; none where the answer tells the names."""
        return list(self.labels) if BY_PLACE.get() else []


def _read(image: Any) -> SourceImage:
    if not isinstance(image, str) or not image:
        raise RequestError("the request names no image; give the id of one of the studies, or send a file")
    return read_image(image)
