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

"""Negatives: what can be asked of an image though it is not there, taken from the other entries of a datalist."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_sa2va.data.datalist import check_phrases
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DatalistError

__all__ = ["with_negatives"]

_log = logging.getLogger(__name__)

_Group = tuple[str, ...]


def with_negatives(
    entries: Sequence[Mapping[str, Any]], foreign_phrases: str | Iterable[str] = (), enabled: bool = True
) -> list[dict[str, Any]]:
    """Add to each entry what can be asked of its image though it is not there: ``missing`` and ``foreign``.

    Both are lists of phrase groups, tuples whose first phrase is the structure's name:

    * ``missing``: structures that images of this kind may show and this one doesn't: the entry's ``absent``, each with
      all the phrases that prompts of other entries have for a structure of that name, so that a name and its synonyms
      are absent alike.
    * ``foreign``: ``foreign_phrases``, and what is named by entries of other families alone. A family is the text under
      ``family`` of an entry: images of one kind, such as ``"fundus"`` or ``"abdominal CT"``. That a label doesn't draw
      a structure is no sign that its image doesn't show it, so of an entry without ``family`` only ``foreign_phrases``
      are foreign, and its names are foreign to none.

    No group has a phrase of the entry's own prompts.

    Args:
        entries: of a datalist, volumes expanded to slices.
        foreign_phrases: that no image of the datalist shows, e.g. ``["pacemaker", "optic nerve"]``; a text is one.
        enabled: otherwise the entries stay as they are.

    Returns:
        New entries; groups are shared between them.

    Raises:
        DatalistError: when a family is no text, or a foreign phrase can't be used or is named by an entry.
    """
    if not enabled:
        return [dict(entry) for entry in entries]
    groups = _groups(entries)
    # a text is one phrase, as in a datalist, not its letters
    foreign_list = [foreign_phrases] if isinstance(foreign_phrases, str) else list(foreign_phrases)
    given = [(phrase,) for phrase in _checked(foreign_list, groups)]
    families = [_family(entry) for entry in entries]
    homeless = families.count(None)
    if homeless:
        _log.warning(
            "%d of %d entries have no 'family', so no other entry's names are asked of them as foreign; write the kind "
            "of image there, such as its modality and region",
            homeless,
            len(entries),
        )
    foreign = _foreign(entries, families, groups)
    result = []
    for entry, family in zip(entries, families, strict=True):
        own = {phrase.casefold() for phrases in entry.get(Keys.PROMPTS, {}).values() for phrase in phrases}
        missing = [groups.get(name.casefold(), (name,)) for name in entry.get(Keys.ABSENT, [])]
        result.append(
            {
                **entry,
                Keys.MISSING.value: [group for group in missing if not _meets(group, own)],
                Keys.FOREIGN.value: [g for g in (*foreign.get(family, ()), *given) if not _meets(g, own)],
            }
        )
    return result


def _groups(entries: Sequence[Mapping[str, Any]]) -> dict[str, _Group]:
    """By the name of a structure, in small letters, all phrases for it."""
    found: dict[str, dict[str, None]] = {}
    for entry in entries:
        for phrases in entry.get(Keys.PROMPTS, {}).values():
            found.setdefault(phrases[0].casefold(), {}).update(dict.fromkeys(phrases))
    return {name: tuple(phrases) for name, phrases in found.items()}


def _foreign(
    entries: Sequence[Mapping[str, Any]], families: Sequence[str | None], groups: Mapping[str, _Group]
) -> dict[str | None, list[_Group]]:
    """By family, the groups that other families name and it doesn't; what homeless entries name is foreign to none."""
    named: dict[str | None, set[str]] = {family: set() for family in families}
    for entry, family in zip(entries, families, strict=True):
        structures = [phrases[0] for phrases in entry.get(Keys.PROMPTS, {}).values()]
        named[family] |= {name.casefold() for name in (*structures, *entry.get(Keys.ABSENT, []))}
    anyone = named.pop(None, set())
    result: dict[str | None, list[_Group]] = {}
    for family, names in named.items():
        own = {phrase.casefold() for name in names | anyone for phrase in groups.get(name, (name,))}
        result[family] = [group for group in groups.values() if not _meets(group, own)]
    return result


def _checked(phrases: list[str], groups: Mapping[str, _Group]) -> list[str]:
    if not phrases:
        return []
    checked = check_phrases(phrases, "foreign_phrases")
    named = {phrase.casefold() for group in groups.values() for phrase in group}
    odd = next((phrase for phrase in checked if phrase.casefold() in named), None)
    if odd is not None:
        raise DatalistError(f"foreign_phrases: '{odd}' is among the prompts of an entry; leave it out")
    return checked


def _family(entry: Mapping[str, Any]) -> str | None:
    family = entry.get(Keys.FAMILY)
    if family is not None and not (isinstance(family, str) and family.strip()):
        raise DatalistError(f"image {entry[Keys.IMAGE]}: family is {family!r}; give a text, such as 'abdominal CT'")
    return family


def _meets(group: _Group, phrases: set[str]) -> bool:
    return any(phrase.casefold() in phrases for phrase in group)
