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

"""Which image is to be labelled next."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

__all__ = ["UNCERTAINTY", "AnyUnlabelled", "MostUncertain"]

UNCERTAINTY = "sa2va_uncertainty"
"""Key of an image's info: 0 where the model is sure of all objects, 1 where it can't tell whether one is there."""


class AnyUnlabelled(Strategy):
    """Any image that has no label yet, each as likely as the others.

    The stock one fails where all images are as new as each other.
    """

    def __init__(self) -> None:
        super().__init__("Any image without a label")

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Choose an image.

        Returns:
            Its ``id``; ``None`` where all are labelled.
        """
        waiting = sorted(datastore.get_unlabeled_images())
        return {"id": random.choice(waiting)} if waiting else None


class MostUncertain(Strategy):
    """The image whose objects the model can tell least whether they are there.

    Images that were not scored yet come last, in the order of their ids.
    """

    def __init__(self) -> None:
        super().__init__("The image that the model is least sure of; run the scoring 'uncertainty' first")

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Choose an image.

        Returns:
            Its ``id`` and ``uncertainty`` (``None`` where it wasn't scored); ``None`` where all are labelled.
        """
        scores = {image: datastore.get_image_info(image).get(UNCERTAINTY) for image in datastore.get_unlabeled_images()}
        if not scores:
            return None
        first = min(scores, key=lambda image: (-(-1.0 if scores[image] is None else float(scores[image])), image))
        return {"id": first, "uncertainty": scores[first]}
