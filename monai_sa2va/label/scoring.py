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

"""How unsure the model is of each image that has no label yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from monai_sa2va.errors import Sa2VAError
from monai_sa2va.label.options import RequestError
from monai_sa2va.label.served_model import ServedModel
from monai_sa2va.label.strategies import UNCERTAINTY
from monai_sa2va.label.submitted import names_of

__all__ = ["Uncertainty", "uncertainty"]

_MOST_NAMES = 20


def uncertainty(presence: Sequence[float]) -> float:
    """How little can be told whether objects are there.

    Args:
        presence: of each object, 0 to 1.

    Returns:
        0 where all are surely there or surely not, 1 where one is as likely there as not; 0 for none.
    """
    return max((1.0 - abs(2.0 * value - 1.0) for value in presence), default=0.0)


class Uncertainty(ScoringMethod):
    """Asks the model for what was labelled so far in the images without a label, and keeps how unsure it is.

    Args:
        model: the server's.
        labels: the server's names; those that were submitted are asked for, too.
    """

    def __init__(self, model: ServedModel, labels: Sequence[str]) -> None:
        super().__init__("How unsure the model is, from the presence of each object")
        self.model, self.labels = model, list(labels)

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Score all images without a label.

        Args:
            request: ``names`` to ask for; by default the server's own and those of submitted labels.
            datastore: of MONAI Label.

        Returns:
            ``scored`` and ``failed``, numbers of images.

        Raises:
            RequestError: when there is nothing to ask for.
        """
        asked = request.get("names") or self._names(datastore)
        if not isinstance(asked, list) or not all(isinstance(name, str) and name.strip() for name in asked):
            raise RequestError("names is no list of names")
        if not asked:
            raise RequestError("nothing to ask for: submit a label with names, or start the server with --labels")
        prompts = [f"Segment the {name.strip()}." for name in asked[:_MOST_NAMES]]
        scored = failed = 0
        for image in sorted(datastore.get_unlabeled_images()):
            try:
                with self.model.use() as segmenter:
                    found = segmenter.segment(datastore.get_image_uri(image), prompts)
            except Sa2VAError:
                failed += 1
                continue
            datastore.update_image_info(image, {UNCERTAINTY: uncertainty(found.scores.tolist())})
            scored += 1
        return {"scored": scored, "failed": failed}

    def _names(self, datastore: Any) -> list[str]:
        names = dict.fromkeys(names_of({}, self.labels).values())
        for image in datastore.get_labeled_images():
            names |= dict.fromkeys(names_of(datastore.get_label_info(image, "final"), self.labels).values())
        return list(names)
