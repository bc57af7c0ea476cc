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

"""Sentences asked about a source: in the plane it was taken in or in all three, slice by slice or as a video."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.dicom.series import Layout
from monai_sa2va.inferers.agreement import agree, check_planes, other_planes
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.volume import VolumeInferer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.pictures import Slices
from monai_sa2va.transforms.geometry import PlaneGeometry
from monai_sa2va.transforms.stacks import StackPlanes

__all__ = ["VolumeQuestions"]


class VolumeQuestions:
    """Asks sentences about pictures, volumes and cines.

    Args:
        network: with its weights.
        inferer: applies it to one picture.
        volume_inferer: goes through the slices.
        stack: how volumes are sliced.
        planes: of :data:`~monai_sa2va.inferers.agreement.AGREEMENTS`. What has no place in space, as a picture or a
            cine, has one plane only.

    Raises:
        ConfigError: when there is no such agreement of planes.
    """

    def __init__(
        self, network: Sa2VA, inferer: ImageInferer, volume_inferer: VolumeInferer, stack: StackPlanes, planes: str
    ) -> None:
        self.network, self.inferer, self.volume_inferer, self.stack = network, inferer, volume_inferer, stack
        self.planes = check_planes(planes)

    def __call__(
        self,
        source: SourceImage,
        pictures: Slices,
        asked: Sequence[str],
        mode: str = "segment",
        volume: str | None = None,
        context: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SliceResults:
        """Ask.

        Args:
            source: what is asked about.
            pictures: its slices.
            asked: the sentences.
            mode: as for :class:`~monai_sa2va.inferers.volume.VolumeInferer`, like the next two.
            volume: how the slices are gone through.
            context: which slices the language model sees where objects are propagated.
            progress: called with the number of slices done and of all; for several planes again for each.

        Returns:
            What there is of each of ``pictures``.

        Raises:
            ConfigError: when mode, volume or context can't be used.
            DataError: when a volume's voxels are too uneven, or it is too thin, for three planes.
            PromptError: when a sentence can't be asked.
        """
        volume, context = self._way(source, volume, context)
        found: list[tuple[SliceResults, PlaneGeometry]] = []
        for geometry in (pictures.geometry, *self._others(source)):
            # the objects are those of the first plane
            known = found[0][0][0] if found else None
            slices = pictures.along(geometry)
            results = self.volume_inferer(
                slices, self.network, asked, self.inferer, mode, volume, context, progress, known
            )
            found.append((results, geometry))
        return found[0][0] if len(found) == 1 else agree(found, self.planes)

    def _others(self, source: SourceImage) -> list[PlaneGeometry]:
        """The planes besides the one that a source is sliced in."""
        affine = source.grid.affine
        if self.planes == "one" or affine is None or source.pixels.ndim < 4 or 1 in source.grid.shape:
            return []
        names = other_planes(source.name, source.grid.shape, affine, self.stack.axis)
        return [StackPlanes(name).geometry(source.pixels) for name in names]

    def _way(self, source: SourceImage, volume: str | None, context: str | None) -> tuple[str | None, str | None]:
        """How a source is gone through, and which of its slices the language model sees."""
        layout = None if source.series is None else source.series.layout
        if layout is Layout.STACK:
            # its neighbours in the list needn't be neighbours in space, which memory takes them for
            return "slices", None
        if layout is Layout.CINE and context is None and (volume or self.volume_inferer.volume) == "auto":
            # memory sees frames whole
            return ("propagate" if self.inferer.windows is None else "slices"), None
        return volume, context
