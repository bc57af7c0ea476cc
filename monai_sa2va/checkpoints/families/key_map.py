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

"""How the keys of an official checkpoint and those of the network correspond: data, readable in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from monai_sa2va.errors import CheckpointError

__all__ = ["FusedRows", "KeyRule", "Layout", "choose_layout"]


@dataclass(frozen=True)
class FusedRows:
    """One official tensor whose rows are those of several native ones, group by group.

    Attributes:
        groups: number of groups.
        shares: of each native tensor in one group; InternViT's qkv is one group of shares (1, 1, 1), InternLM2's wqkv
            one group a key-value head with its queries, key and value.

    Example:
        >>> q, k, v = FusedRows(2, (2, 1, 1)).split(torch.arange(8.0))
        >>> q.tolist(), k.tolist(), v.tolist()
        ([0.0, 1.0, 4.0, 5.0], [2.0, 6.0], [3.0, 7.0])
    """

    groups: int
    shares: tuple[int, ...]

    def split(self, fused: torch.Tensor) -> list[torch.Tensor]:
        """(rows, ...) -> the native tensors, whose rows add up to as many.

        Raises:
            CheckpointError: when the rows can't be shared out.
        """
        if fused.ndim < 1 or not len(fused) or len(fused) % (self.groups * sum(self.shares)):
            raise CheckpointError(
                f"a fused tensor of shape {tuple(fused.shape)} can't be shared out to {self.groups} groups of "
                f"{sum(self.shares)}; its config.json is another checkpoint's"
            )
        grouped = fused.unflatten(0, (self.groups, sum(self.shares), -1))
        return [part.flatten(0, 2) for part in grouped.split(self.shares, dim=1)]

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The native tensors -> (rows, ...), the inverse of :meth:`split`."""
        grouped = [part.unflatten(0, (self.groups, share, -1)) for part, share in zip(parts, self.shares, strict=True)]
        return torch.cat(grouped, dim=1).flatten(0, 2)


@dataclass(frozen=True)
class KeyRule:
    """One line of a key map.

    Attributes:
        official: key in the checkpoint. ``*`` stands for one part between dots, ``**`` for all that follow; they mean
            the same on both sides, in order.
        native: key in the network, or the keys whose rows make the official tensor.
        rows: how, where they are several.

    Example:
        >>> rule = KeyRule("mlp1.1.*", ("mllm.model.multi_modal_projector.linear_1.*",))
    """

    official: str
    native: tuple[str, ...]
    rows: FusedRows | None = None

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_pattern(template) for template in (self.official, *self.native))

    def to_native(self, key: str) -> tuple[str, ...]:
        """Native keys of an official one, none where the rule isn't about it."""
        found = self._patterns[0].fullmatch(key)
        return tuple(_filled(template, found.groups()) for template in self.native) if found else ()

    def to_official(self, key: str) -> str | None:
        """Official key of a native one, ``None`` where the rule isn't about it."""
        for pattern in self._patterns[1:]:
            found = pattern.fullmatch(key)
            if found:
                return _filled(self.official, found.groups())
        return None


class Layout:
    """A way in which a family's checkpoints spell their keys.

    Args:
        name: of the spelling; a converted checkpoint remembers it and is given back in it.
        rules: tried in order, in both directions; the first that is about a key counts.
    """

    def __init__(self, name: str, rules: Sequence[KeyRule]) -> None:
        self.name, self.rules = name, tuple(rules)

    def native(self, official: str) -> tuple[str, ...]:
        """Native keys of an official one; none where this layout doesn't spell it so."""
        for rule in self.rules:
            keys = rule.to_native(official)
            if keys:
                return keys if self.official(keys[0]) == official else ()
        return ()

    def official(self, native: str) -> str | None:
        """Official key that a native one is in; ``None`` where there is none."""
        return next((key for key in (rule.to_official(native) for rule in self.rules) if key), None)

    def sources(self, native: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Official keys of a network, in its order, each with the native keys that it is split into.

        Args:
            native: all keys of the network's state.

        Raises:
            CheckpointError: when no rule is about a key.
        """
        result: dict[str, tuple[str, ...]] = {}
        for key in native:
            official = self.official(key)
            if official is None:
                raise CheckpointError(f"key {key} of the network has no place in the layout {self.name!r}")
            result.setdefault(official, self.native(official))
        return result

    def split(self, official: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """An official tensor as native ones; views of it.

        Raises:
            CheckpointError: when the key has no place in this layout, or the rows can't be shared out.
        """
        keys = self.native(official)
        if not keys:
            raise CheckpointError(f"key {official} has no place in the layout {self.name!r}")
        rows = self._rows(official)
        return dict(zip(keys, [tensor] if rows is None else rows.split(tensor), strict=True))

    def join(self, official: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The inverse of :meth:`split`: native tensors, in the order of :meth:`native`, as the official one."""
        rows = self._rows(official)
        return parts[0] if rows is None else rows.join(parts)

    def to_native(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A whole official state as a native one; tensors are views."""
        return {key: part for name, tensor in weights.items() for key, part in self.split(name, tensor).items()}

    def to_official(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A whole native state, also on the meta device, as an official one."""
        return {name: self.join(name, [state[key] for key in keys]) for name, keys in self.sources(state).items()}

    def _rows(self, official: str) -> FusedRows | None:
        return next(rule.rows for rule in self.rules if rule.to_native(official))


def choose_layout(layouts: Sequence[Layout], keys: Iterable[str]) -> Layout:
    """The layout that has a place for the most keys; of equals the first."""
    keys = list(keys)
    return max(layouts, key=lambda layout: sum(bool(layout.native(key)) for key in keys))


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\*\*", "(.+)").replace(r"\*", r"([^.]+)")
    return re.compile(escaped)


def _filled(template: str, groups: Sequence[str]) -> str:
    values = iter(groups)
    return re.sub(r"\*\*?", lambda _: next(values), template)
