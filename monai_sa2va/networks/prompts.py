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

"""What SAM2 is asked for: language, clicks, boxes and rough masks, in any mixture for each object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from monai_sa2va.errors import DataError

__all__ = ["BACKGROUND", "BOX_LABELS", "FOREGROUND", "MASK_PROMPT_LIMIT", "NO_POINT", "GroundingPrompts"]

FOREGROUND, BACKGROUND, NO_POINT = 1, 0, -1
"""Labels of a click on the object, of a click beside it, and of a slot without a point."""

BOX_LABELS = (2, 3)
"""Labels of a box's two corners: that of smallest and that of largest x and y."""

MASK_PROMPT_LIMIT = 32.0
"""Largest absolute logit of a mask prompt, as in SAM2's predictor: beyond it a mask can hardly be corrected."""


@dataclass(frozen=True)
class GroundingPrompts:
    """Prompts of M objects; what one object has, another need not have.

    Build one with :meth:`empty` or :meth:`of_language` and add to it: every method gives a new one.

    Attributes:
        language: (M, C) embeddings, or ``None`` where no object has any.
        has_language: (M,) bool.
        points: (M, P, 2) floating point, x then y in pixels of SAM2's image: 0 is the centre of the first pixel.
        point_labels: (M, P) int64: 1 foreground, 0 background, 2 and 3 corners of a box, -1 no point.
        masks: (M, 1, S/4, S/4) logits, or ``None`` where no object has any.
        has_mask: (M,) bool.

    Raises:
        DataError: when the shapes don't fit each other, or a label is none of these.

    Example:
        >>> prompts = GroundingPrompts.empty(2).with_points(torch.tensor([[[3.0, 4.0]]] * 2), torch.tensor([[1], [-1]]))
        >>> len(prompts), prompts.point_labels.tolist()
        (2, [[1], [-1]])
    """

    language: torch.Tensor | None
    has_language: torch.Tensor
    points: torch.Tensor
    point_labels: torch.Tensor
    masks: torch.Tensor | None
    has_mask: torch.Tensor

    def __post_init__(self) -> None:
        number = len(self.has_language)
        slots = self.point_labels.shape[-1]
        for name, value, shape in (
            ("has_language", self.has_language, (number,)),
            ("has_mask", self.has_mask, (number,)),
            ("point_labels", self.point_labels, (number, slots)),
            ("points", self.points, (number, slots, 2)),
            ("language", self.language, (number, -1)),
            ("masks", self.masks, (number, 1, -1, -1)),
        ):
            if value is not None and not _fits(value, shape):
                asked = ", ".join("any" if n < 0 else str(n) for n in shape)
                raise DataError(f"prompts: {name} has shape {tuple(value.shape)}; expected ({asked})")

    def __len__(self) -> int:
        return len(self.has_language)

    @classmethod
    def empty(
        cls, number: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> GroundingPrompts:
        """No prompt at all for ``number`` objects, as on a frame that memory alone draws.

        Args:
            number: M.
            device: where the prompts live.
            dtype: of points.
        """
        no = torch.zeros(number, dtype=torch.bool, device=device)
        points = torch.zeros(number, 0, 2, dtype=dtype, device=device)
        return cls(None, no, points, points.new_zeros((number, 0), dtype=torch.long), None, no)

    @classmethod
    def of_language(cls, language: torch.Tensor) -> GroundingPrompts:
        """Language (M, C) for each object and nothing else."""
        return cls.empty(len(language), language.device).with_language(language)

    def with_language(self, language: torch.Tensor, has: torch.Tensor | None = None) -> GroundingPrompts:
        """Set the language of the objects.

        Args:
            language: (M, C).
            has: (M,) bool, the objects that it is used for; all where ``None``.
        """
        return replace(self, language=language, has_language=self._rows(has))

    def with_points(self, points: torch.Tensor, labels: torch.Tensor) -> GroundingPrompts:
        """Add points behind those that are there.

        Args:
            points: (M, P, 2), x then y in pixels of SAM2's image.
            labels: (M, P), -1 for objects that get none.

        Raises:
            DataError: when the shapes don't fit, or a label is none of 1, 0, 2, 3 and -1.
        """
        if points.shape != (len(self), labels.shape[-1], 2) or labels.shape[0] != len(self):
            raise DataError(
                f"prompts: points {tuple(points.shape)} and labels {tuple(labels.shape)} don't fit; "
                f"give ({len(self)}, P, 2) and ({len(self)}, P)"
            )
        if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) <= BOX_LABELS[1]:
            raise DataError(
                f"prompts: labels go from {int(labels.min())} to {int(labels.max())}; give 1 for the object, 0 for "
                "background, 2 and 3 for a box's corners, -1 for no point"
            )
        return replace(
            self,
            points=torch.cat([self.points, points.to(self.points)], dim=1),
            point_labels=torch.cat([self.point_labels, labels.to(self.point_labels)], dim=1),
        )

    def with_boxes(self, boxes: torch.Tensor, has: torch.Tensor | None = None) -> GroundingPrompts:
        """Add a box, two points with labels of their own.

        Args:
            boxes: (M, 4), smallest x and y, then largest x and y, in pixels of SAM2's image.
            has: (M,) bool, the objects that get theirs; all where ``None``.

        Raises:
            DataError: when ``boxes`` isn't (M, 4).
        """
        if boxes.shape != (len(self), 4):
            raise DataError(f"prompts: boxes has shape {tuple(boxes.shape)}; expected ({len(self)}, 4)")
        labels = torch.tensor(BOX_LABELS, device=self.point_labels.device).expand(len(self), 2)
        return self.with_points(
            boxes.reshape(-1, 2, 2), labels.where(self._rows(has).unsqueeze(1), torch.full_like(labels, NO_POINT))
        )

    def with_masks(self, masks: torch.Tensor, has: torch.Tensor | None = None) -> GroundingPrompts:
        """Set the mask that an object begins from, such as its prediction before a click.

        Args:
            masks: (M, S/4, S/4) or (M, 1, S/4, S/4) logits, limited to :data:`MASK_PROMPT_LIMIT`.
            has: (M,) bool, the objects that get theirs; all where ``None``.
        """
        masks = masks.unsqueeze(1) if masks.ndim == 3 else masks
        limited = masks.clamp(-MASK_PROMPT_LIMIT, MASK_PROMPT_LIMIT)
        return replace(self, masks=limited, has_mask=self._rows(has))

    def select(self, rows: torch.Tensor) -> GroundingPrompts:
        """The prompts of some objects: indices (K,) int64, or (M,) bool."""
        return GroundingPrompts(
            None if self.language is None else self.language[rows],
            self.has_language[rows],
            self.points[rows],
            self.point_labels[rows],
            None if self.masks is None else self.masks[rows],
            self.has_mask[rows],
        )

    def is_ambiguous(self) -> torch.Tensor:
        """(M,) bool: whether one click on the object is all that there is, which may mean a whole or a part of it."""
        used = self.point_labels != NO_POINT
        clicks = (self.point_labels == FOREGROUND).sum(1)
        return (used.sum(1) == 1) & (clicks == 1) & ~self.has_language & ~self.has_mask

    def _rows(self, has: torch.Tensor | None) -> torch.Tensor:
        return torch.ones_like(self.has_language) if has is None else has


def _fits(value: torch.Tensor, shape: tuple[int, ...]) -> bool:
    return value.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, value.shape, strict=True))
