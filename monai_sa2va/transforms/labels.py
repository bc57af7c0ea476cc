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

"""From a label and the phrases for its values to one mask a structure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from monai_sa2va.data.datalist import check_phrases, parse_prompts
from monai_sa2va.data.headers import same_grid
from monai_sa2va.enums import Sa2VAKeys
from monai_sa2va.errors import ConfigError, DataError, DatalistError
from monai_sa2va.transforms.source import channels_of_one_picture, grid_of, picture_mode, source_name

__all__ = ["LabelMasks", "LabelToMasks", "LabelToMasksD", "LabelToMasksDict", "LabelToMasksd"]


@dataclass(frozen=True, eq=False)
class LabelMasks:
    """One mask a structure, first those of the prompts in ascending order of their values, then the absent ones.

    Attributes:
        masks: (N, H, W) uint8, 0 or 1.
        phrases: for each mask all phrases for it.
        names: for each mask the first of its phrases.
        present: for each mask whether it has any pixel.
    """

    masks: torch.Tensor
    phrases: list[list[str]]
    names: list[str]
    present: list[bool]


class LabelToMasks(Transform):
    """Turn a label into masks, by the phrases for its values.

    What a label may be:

    - a label map (1, H, W): integers of any dtype, 0 for background; the prompts' keys are its values;
    - a black and white picture (1, H, W) of 0 and 255 with one prompt, whose key is 1 or 255;
    - a stack (K, H, W) of masks that may overlap, as a list of files gives: each of 0 and 1 or of 0 and 255; the
      prompts' keys count the files from 1.

    Grey saved as colour (all channels equal) counts as one channel. A value or file that no prompt names is
    background, as someone may train on two organs of a map of twenty. A prompt whose value does not occur in this
    label gives an empty mask: an absent structure.

    Args:
        unlisted: what to do with values that no prompt names: ``"ignore"`` or ``"error"``.
        threshold: where given, values above it are foreground and others background, whatever they are: for pictures
            saved with loss (JPEG), 127.
        include_absent: whether the phrases for what is not there get empty masks, after the others.

    Raises:
        ConfigError: when ``unlisted`` is neither.
    """

    def __init__(self, unlisted: str = "ignore", threshold: float | None = None, include_absent: bool = True) -> None:
        if unlisted not in ("ignore", "error"):
            raise ConfigError(f"unlisted is {unlisted!r}; allowed: ignore, error")
        self.unlisted, self.threshold, self.include_absent = unlisted, threshold, include_absent

    def __call__(
        self,
        label: Any,
        prompts: Mapping[Any, Any] | None = None,
        absent: Sequence[str] = (),
        shape: Sequence[int] | None = None,
        name: Hashable = "label",
    ) -> LabelMasks:
        """Make the masks.

        Args:
            label: (1, H, W) or (K, H, W), any dtype, values that are integers; volumes (1, X, Y, Z) will do as well.
                ``None`` where there are no prompts but absent phrases.
            prompts: label value -> phrase or phrases, e.g. ``{"1": ["vessels", "blood vessels"], "2": "optic disc"}``.
            absent: phrases for what is not there.
            shape: (H, W) of the masks where there is no label.
            name: what error messages call the label.

        Raises:
            DatalistError: when prompts or absent phrases can't be used, or there is neither.
            DataError: when the label is coloured, has values that are no integers, or doesn't fit its prompts.
        """
        where = source_name(label, name)
        wanted = parse_prompts({} if prompts is None else prompts, f"prompts of {where}")
        missing = check_phrases(absent, f"absent of {where}") if self.include_absent and len(absent) else []
        if not wanted and not missing:
            raise DatalistError(f"{where} has neither prompts nor absent phrases; name at least one structure")
        if label is None:
            if wanted or shape is None:
                raise DataError(f"{where} is missing, but prompts name its values; give the label")
            masks = torch.zeros((0, *shape), dtype=torch.uint8)
        else:
            values = self._values(label, where)
            masks = (
                self._stack(values, list(wanted), where) if len(values) > 1 else self._map(values, list(wanted), where)
            )
        masks = torch.cat([masks, masks.new_zeros((len(missing), *masks.shape[1:]))])
        if isinstance(label, MetaTensor):
            masks = MetaTensor(masks).copy_meta_from(label)
        phrases = [list(phrases) for phrases in wanted.values()] + [[phrase] for phrase in missing]
        present = [bool(mask.any()) for mask in masks.as_subclass(torch.Tensor)]
        return LabelMasks(masks, phrases, [group[0] for group in phrases], present)

    def _values(self, label: Any, where: str) -> torch.Tensor:
        """The label's values as (1 or K, ...) int64, checked to be integers >= 0."""
        values: torch.Tensor = convert_to_tensor(label, track_meta=False)
        if values.ndim < 3 or 0 in values.shape:
            raise DataError(f"{where} has shape {tuple(values.shape)}; expected (1, H, W), or (K, H, W) for K masks")
        if len(values) > 1 and channels_of_one_picture(label):
            mode = picture_mode(label)
            colours = values[:-1] if len(values) in (2, 4) else values
            if bool((colours != colours[:1]).any()):
                raise DataError(
                    f"{where} is a colour picture{f' ({mode})' if mode else ''}; expected one channel of label values "
                    "(0, 1, 2 ...) or of 0 and 255"
                )
            values = colours[:1]
        if self.threshold is not None:
            return (values > self.threshold).long()
        whole = values.long()
        if values.is_floating_point() and not bool((whole == values).all()):
            raise DataError(f"{where} has values that are no integers; resample labels with nearest neighbour only")
        if bool((whole < 0).any()):
            raise DataError(f"{where} has negative values; label values are integers of at least 0")
        return whole

    def _map(self, values: torch.Tensor, wanted: list[int], where: str) -> torch.Tensor:
        found = [int(value) for value in torch.unique(values) if value != 0]
        if self.threshold is not None and wanted not in ([], [1], [255]):
            raise DataError(f"{where} is cut at threshold {self.threshold:g}, so it takes one prompt, for 1 or 255")
        if wanted in ([1], [255]) and (self.threshold is not None or found == [255]):
            return (values != 0).to(torch.uint8)
        # 255 is a picture's white, hardly the number of a structure: "absent" would be wrong here, and silent
        if wanted and not set(wanted) & set(found) and (255 in found or (wanted == [255] and found == [1])):
            raise DataError(
                f"{where} has values {_some(found)}, none of which is a prompt's key ({_some(wanted)}); correct the "
                "keys, or give LabelToMasks threshold=127 for a black and white picture that was saved with loss"
            )
        self._check_unlisted(found, wanted, "values", where)
        return torch.cat([values == value for value in wanted] or [values[:0] != 0]).to(torch.uint8)

    def _stack(self, values: torch.Tensor, wanted: list[int], where: str) -> torch.Tensor:
        for number, channel in enumerate(values, 1):
            found = [int(value) for value in torch.unique(channel) if value != 0]
            if found not in ([], [1], [255]):
                raise DataError(
                    f"{where} has {len(values)} channels, number {number} of which has values {_some(found)}; expected "
                    "masks of 0 and 1 or of 0 and 255, or a single channel of label values"
                )
        if wanted and wanted[-1] > len(values):
            raise DataError(
                f"{where} has {len(values)} masks, but a prompt is for number {wanted[-1]}; correct its key"
            )
        self._check_unlisted(list(range(1, len(values) + 1)), wanted, "masks", where)
        return (values[[value - 1 for value in wanted]] != 0).to(torch.uint8)

    def _check_unlisted(self, found: list[int], wanted: list[int], what: str, where: str) -> None:
        unlisted = sorted(set(found) - set(wanted))
        if unlisted and self.unlisted == "error":
            raise DataError(f"{where} has {what} {_some(unlisted)} that no prompt names; add prompts for them")


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:6])) + (f" ... ({len(values)} in all)" if len(values) > 6 else "")


class LabelToMasksd(MapTransform):
    """Dictionary form of :class:`LabelToMasks`: masks, phrases and names are put beside the label.

    Args:
        keys: of the one label; it may be missing where the entry has no prompts.
        prompts_key: of the phrases for the label's values.
        absent_key: of the phrases for what is not there; may be missing.
        image_key: of the image, whose spatial shape the label has to have.
        masks_key: where the masks (N, H, W) go.
        phrases_key: where the phrases go, a list for each mask.
        names_key: where the names go, one for each mask.
        unlisted: as for :class:`LabelToMasks`.
        threshold: as for :class:`LabelToMasks`.
        include_absent: as for :class:`LabelToMasks`.
    """

    def __init__(
        self,
        keys: str = Sa2VAKeys.LABEL,
        prompts_key: str = Sa2VAKeys.PROMPTS,
        absent_key: str = Sa2VAKeys.ABSENT,
        image_key: str = Sa2VAKeys.IMAGE,
        masks_key: str = Sa2VAKeys.MASKS,
        phrases_key: str = Sa2VAKeys.PHRASES,
        names_key: str = Sa2VAKeys.NAMES,
        unlisted: str = "ignore",
        threshold: float | None = None,
        include_absent: bool = True,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ConfigError(f"keys are {self.keys}; give one label, since its masks go to '{masks_key}'")
        self.prompts_key, self.absent_key, self.image_key = prompts_key, absent_key, image_key
        self.masks_key, self.phrases_key, self.names_key = masks_key, phrases_key, names_key
        self.to_masks = LabelToMasks(unlisted, threshold, include_absent)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add masks, phrases and names.

        Raises:
            DatalistError: when the entry's phrases can't be used.
            DataError: when the label can't be used or has another shape than the image.
        """
        d = dict(data)
        key = self.keys[0]
        label, image = d.get(key), d.get(self.image_key)
        if image is None:
            raise DataError(f"the entry has no '{self.image_key}' that its label could fit")
        if label is not None:
            reason = same_grid(grid_of(image), grid_of(label))
            if reason:
                raise DataError(f"{source_name(label, key)} doesn't fit {source_name(image, self.image_key)}: {reason}")
        result = self.to_masks(
            label, d.get(self.prompts_key, {}), d.get(self.absent_key) or (), tuple(image.shape[1:]), key
        )
        d[self.masks_key], d[self.phrases_key], d[self.names_key] = result.masks, result.phrases, result.names
        return d


LabelToMasksD = LabelToMasksDict = LabelToMasksd
