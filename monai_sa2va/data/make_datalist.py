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
"""Making a datalist from a folder of images and a folder of masks; free of torch."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_sa2va.data.checks import check_pair
from monai_sa2va.data.datalist import SECTIONS, check_phrases, parse_prompts
from monai_sa2va.data.headers import image_suffix, label_values
from monai_sa2va.data.leaks import leak_between_sections
from monai_sa2va.data.pairing import LeftOut, Pair, pair_by_name
from monai_sa2va.data.patients import shown_path
from monai_sa2va.data.splits import DEFAULT_SPLIT, group_of, split_by_fraction, split_by_name
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError, DatalistError, OutputError

__all__ = [
    "MadeDatalist",
    "check_target",
    "make_datalist",
    "parse_prompt_options",
    "relative_path",
    "split_entries",
    "write_datalist",
]

_SHOWN = 60
_FOREGROUND = 0
# 1, and white by the types that masks are stored as
_FOREGROUND_VALUES = {1, 255, 32767, 65535}
_NUMBERED = re.compile(r"\s*(\d+)\s*=(.*)", re.DOTALL)


@dataclass(frozen=True)
class MadeDatalist:
    """What became of the two folders.

    Attributes:
        sections: section -> entries, as they are written; paths are relative to the datalist's folder.
        groups: section -> names of its groups.
        left_out: files that are in no entry, and why.
        warnings: what was taken but may not be what was meant, one line each.
    """

    sections: dict[str, list[dict[str, Any]]]
    groups: dict[str, list[str]]
    left_out: list[LeftOut]
    warnings: list[str]

    def __len__(self) -> int:
        return sum(map(len, self.sections.values()))


def parse_prompt_options(options: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Prompts from text such as ``"vessels"`` or ``"2=optic disc|optic nerve head"``.

    Returns:
        Label value -> phrases; key 0 alone for one un-numbered prompt, which means the foreground of binary masks.

    Raises:
        DatalistError: when there is none, un-numbered ones are not alone, or a number or phrase can't be used.
    """
    if not options:
        raise DatalistError("no prompt is given; say what the masks show, e.g. --prompt vessels")
    matches = [_NUMBERED.fullmatch(option) for option in options]
    if len(options) == 1 and not matches[0]:
        return {_FOREGROUND: tuple(check_phrases(options[0].split("|"), f"prompt '{_short(options[0])}'"))}
    prompts: dict[int, tuple[str, ...]] = {}
    for option, match in zip(options, matches, strict=True):
        if not match:
            raise DatalistError(
                f"prompt '{_short(option)}': number each of several prompts by its label value, as in 1=vessels"
            )
        parsed = parse_prompts({match[1]: match[2].split("|")}, f"prompt '{_short(option)}'")
        if parsed.keys() & prompts.keys():
            raise DatalistError(f"prompt '{_short(option)}': label value {match[1]} is given twice; join synonyms by |")
        prompts |= parsed
    return dict(sorted(prompts.items()))


def _short(option: str) -> str:
    return option if len(option) <= _SHOWN else f"{option[:_SHOWN]}..."


def make_datalist(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    prompts: Sequence[str],
    *,
    base_dir: str | os.PathLike[str],
    absent: Sequence[str] = (),
    negatives: bool = False,
    group_regex: str | None = None,
    split: Sequence[float] = DEFAULT_SPLIT,
    validation_groups: Sequence[str] = (),
    test_groups: Sequence[str] = (),
    seed: int = 0,
    mask_suffix: str | None = None,
    progress: Callable[[Iterable[Pair]], Iterable[Pair]] = iter,
    include_patient: bool = False,
    paired: tuple[Sequence[Pair], Sequence[LeftOut]] | None = None,
    common: Mapping[str, Any] | None = None,
) -> MadeDatalist:
    """Pair images with masks, check both, name what each mask holds and split by group.

    Args:
        images: folder of images; see `monai_sa2va.data.pairing.pair_by_name` for how pairs are found.
        masks: folder of masks: 0/1, 0/255, or label maps.
        prompts: see `parse_prompt_options`. An entry gets those whose values its mask holds.
        base_dir: folder that the datalist will lie in.
        absent: phrases for what none of the images shows; every entry gets them.
        negatives: whether prompts whose values a mask doesn't hold are given to the entry as absent. Only for masks
            in which everything that the prompts name was drawn.
        group_regex: see `monai_sa2va.data.splits.group_of`; where given, entries say their ``group``.
        split: shares of training, validation and testing; not looked at where groups are named.
        validation_groups: groups for validation; all that are named nowhere are then for training.
        test_groups: groups for testing; likewise.
        seed: of the split.
        mask_suffix: the end of the masks' names, e.g. ``"_1stHO"``.
        progress: wraps the pairs while their files are read.
        include_patient: whether warnings and errors have folders and groups in them, which may name patients. The
            datalist has paths and groups in any case.
        paired: pairs, and what belongs to none, where these are known already; the folders aren't looked at then.
        common: fields that every entry gets.

    Returns:
        The datalist and what was left out. It may be empty: then every pair has its reason in ``left_out``.

    Raises:
        DatalistError: when a folder, prompt or split can't be used, or a prompt's value is in no mask.
    """
    phrases = parse_prompt_options(prompts)
    not_there = check_phrases(absent, "absent") if absent else []
    named = {phrase.casefold() for synonyms in phrases.values() for phrase in synonyms}
    for phrase in not_there:
        if phrase.casefold() in named:
            raise DatalistError(f"absent '{phrase}' is also a prompt")
    pairs, rest = pair_by_name(Path(images), Path(masks), mask_suffix) if paired is None else paired
    left_out = list(rest)
    found: list[tuple[Pair, str, list[int]]] = []
    for pair in progress(pairs):
        group = group_of(pair.name, group_regex)
        called = pair.name if include_patient else shown_path(pair.name)
        try:
            if group is None:
                raise DataError(f"group regex '{group_regex}' matches nothing in '{called}'")
            found.append((pair, group, _values(pair, binary=_FOREGROUND in phrases)))
        except DataError as error:
            left_out.append(LeftOut(pair.image, str(error.args[0])))
    if found:
        masks_of: dict[int, list[Path]] = defaultdict(list)
        for pair, _, values in found:
            for value in values:
                masks_of[value].append(pair.mask)
        phrases, warnings = _match_values(phrases, masks_of)
    else:
        warnings = []
    entries: list[tuple[str, dict[str, Any]]] = []
    for pair, group, values in found:
        shown = {value: synonyms for value, synonyms in phrases.items() if value in values}
        names = {synonyms[0] for synonyms in shown.values()}
        missing = [s[0] for s in dict.fromkeys(phrases.values()) if s[0] not in names] if negatives else []
        if not shown and not missing and not not_there:
            reason = "shows nothing that a prompt names; --negatives keeps such images as examples of its absence"
            left_out.append(LeftOut(pair.image, reason))
            continue
        entry = {**_entry(pair, shown, [*missing, *not_there], Path(base_dir)), **(common or {})}
        entries.append((group, entry if group_regex is None else {**entry, Keys.GROUP.value: group}))
    return split_entries(
        entries,
        left_out,
        warnings,
        split=split,
        validation_groups=validation_groups,
        test_groups=test_groups,
        seed=seed,
        grouped=group_regex is not None,
        include_patient=include_patient,
    )


def split_entries(
    entries: Sequence[tuple[str, dict[str, Any]]],
    left_out: Sequence[LeftOut],
    warnings: Sequence[str],
    *,
    split: Sequence[float] = DEFAULT_SPLIT,
    validation_groups: Sequence[str] = (),
    test_groups: Sequence[str] = (),
    seed: int = 0,
    grouped: bool = False,
    include_patient: bool = False,
) -> MadeDatalist:
    """Put entries into sections, those of one group into one.

    Args:
        entries: group and entry each.
        left_out: handed on.
        warnings: handed on, with one more where names look as if two sections shared a patient.
        split: as for :func:`make_datalist`, like the next three and ``include_patient``.
        validation_groups: see there.
        test_groups: see there.
        seed: see there.
        grouped: whether the groups were named on purpose.
        include_patient: see there.

    Raises:
        DatalistError: when the split can't be made.
    """
    warnings = list(warnings)
    sections: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    groups: dict[str, list[str]] = {section: [] for section in SECTIONS}
    if entries:
        every = [group for group, _ in entries]
        by_name = bool(validation_groups or test_groups)
        section_of = (
            split_by_name(every, validation_groups, test_groups, include_patient)
            if by_name
            else split_by_fraction(every, split, seed)
        )
        for group, entry in entries:
            sections[section_of[group]].append(entry)
        leak = None if grouped else leak_between_sections(section_of, include_patient)
        if leak:
            warnings.append(leak)
        for group in sorted(section_of):
            groups[section_of[group]].append(group)
    return MadeDatalist(sections, groups, sorted(left_out, key=lambda left: left.file), warnings)


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse to write a datalist over anything but JSON, as an image or mask.

    Raises:
        OutputError: when the name doesn't end in ``.json``.
    """
    if Path(path).suffix.lower() != ".json":
        raise OutputError(f"datalist {path} can't be written: give its name the suffix .json")


def write_datalist(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a datalist whole or not at all; the folder is made, and a file that is there replaced.

    Raises:
        OutputError: when its name doesn't end in ``.json``, or it can't be written.
    """
    check_target(path)
    path = Path(path)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(number, "w", encoding="utf-8") as file:
                file.write(text)
            # a temporary file is private, a datalist is for everyone who may read the folder
            os.chmod(name, 0o644)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise OutputError(f"datalist {path} can't be written: {error.strerror or error}") from error


def _values(pair: Pair, binary: bool) -> list[int]:
    """Values of the pair's mask, both files checked."""
    values = label_values(check_pair(pair.image, pair.mask))
    if values and values[0] < 0:
        raise DataError(f"mask {pair.mask.name} holds the negative value {values[0]}")
    if binary and len(values) > 1:
        listed = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        if image_suffix(pair.mask) in (".jpg", ".jpeg"):
            advice = "JPEG blurs binary masks: threshold it and save it as PNG"
        else:
            advice = "of a label map every prompt needs its number (1=...)"
        raise DataError(f"mask {pair.mask.name} holds {len(values)} values ({listed}): {advice}")
    return values


def _match_values(
    phrases: Mapping[int, tuple[str, ...]], masks_of: Mapping[int, list[Path]]
) -> tuple[dict[int, tuple[str, ...]], list[str]]:
    """Prompts with the values that masks really hold, and warnings about values that nobody named."""
    if _FOREGROUND in phrases:
        if len(masks_of) > 1 and not masks_of.keys() <= _FOREGROUND_VALUES:
            # the rarest first, as one file may be the odd one
            odd = sorted(masks_of, key=lambda value: (len(masks_of[value]), value))
            listed = ", ".join(f"{value} in {masks_of[value][0].name}" for value in odd[:5])
            raise DatalistError(
                f"masks hold different foreground values ({listed}{', ...' if len(odd) > 5 else ''}): of a label map "
                "number the prompts (1=...), of binary masks correct the odd ones"
            )
        return dict.fromkeys(masks_of or [1], phrases[_FOREGROUND]), []
    occurring = ", ".join(map(str, sorted(masks_of)[:20])) or "only 0"
    for value, synonyms in phrases.items():
        if value not in masks_of:
            hint = "; leave out the number where masks are binary" if len(masks_of) == 1 and len(phrases) == 1 else ""
            raise DatalistError(f"prompt '{value}={synonyms[0]}' is in no mask; values there: {occurring}{hint}")
    return dict(phrases), [
        f"label value {value} occurs in {len(masks_of[value])} mask(s) and no prompt names it"
        for value in sorted(masks_of.keys() - phrases.keys())
    ]


def _entry(pair: Pair, shown: Mapping[int, tuple[str, ...]], absent: list[str], base_dir: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        Keys.IMAGE.value: relative_path(pair.image, base_dir),
        Keys.LABEL.value: relative_path(pair.mask, base_dir),
        Keys.PROMPTS.value: {str(value): list(synonyms) for value, synonyms in shown.items()},
    }
    if absent:
        entry[Keys.ABSENT.value] = absent
    return entry


def relative_path(path: Path, base_dir: Path) -> str:
    """How a datalist in ``base_dir`` names a file."""
    try:
        return Path(os.path.relpath(path, base_dir)).as_posix()
    except ValueError:  # on Windows, when they lie on different drives
        return path.absolute().as_posix()
