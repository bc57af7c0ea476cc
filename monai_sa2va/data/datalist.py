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
"""Reading datalists: MONAI's decathlon JSON, whose entries also say which value of a label is what in words."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_sa2va.data.patients import shown_path
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DatalistError, OutputError

__all__ = [
    "DATALIST_NAME",
    "MAX_PHRASE",
    "SECTIONS",
    "check_phrases",
    "load_datalist",
    "parse_prompts",
    "resolve_datalist",
]

SECTIONS = ("training", "validation", "testing")
"""Sections of a datalist; only ``testing`` may hold entries that have prompts and no label."""

DATALIST_NAME = "datalist.json"
"""Name of the datalist that is looked for in a data folder."""

MAX_PHRASE = 512
"""Most characters of one phrase."""

_log = logging.getLogger(__name__)


def check_phrases(value: Any, where: str) -> list[str]:
    """One phrase or a sequence of synonyms as a list, white space around them removed.

    Args:
        value: a string, or a sequence of strings.
        where: what an error message begins with.

    Raises:
        DatalistError: when there is no phrase, one is empty, no string, or longer than `MAX_PHRASE` characters.
    """
    phrases = [value] if isinstance(value, str) else value
    if not isinstance(phrases, Sequence) or not phrases:
        raise DatalistError(f"{where}: give a phrase or a list of phrases, not {value!r}")
    for phrase in phrases:
        if not isinstance(phrase, str) or not phrase.strip():
            raise DatalistError(f"{where}: a phrase is text that is not empty, not {phrase!r}")
        if len(phrase.strip()) > MAX_PHRASE:
            raise DatalistError(
                f"{where}: phrase '{phrase.strip()[:24]}...' has {len(phrase.strip())} characters, "
                f"at most {MAX_PHRASE} are allowed"
            )
    return [phrase.strip() for phrase in phrases]


def parse_prompts(prompts: Any, where: str = "prompts") -> dict[int, tuple[str, ...]]:
    """What each value of a label is called.

    Args:
        prompts: label value -> phrase or synonyms, e.g. ``{"1": ["vessels", "blood vessels"], "2": "optic disc"}``.
        where: what an error message begins with.

    Returns:
        Label value (>= 1) -> phrases, the first of which is the structure's name; in ascending order of values.

    Raises:
        DatalistError: when it is no mapping, a key is no integer >= 1 or given twice, or a phrase can't be used.
    """
    if not isinstance(prompts, Mapping):
        raise DatalistError(f"{where}: give a mapping like {{'1': 'vessels'}}, not {prompts!r}")
    parsed: dict[int, tuple[str, ...]] = {}
    for key, phrases in prompts.items():
        # int() alone would also take "1_0", True and 1.5
        value = int(key) if str(key).strip().isdecimal() and not isinstance(key, bool) else 0
        if value < 1:
            raise DatalistError(f"{where}: key {key!r} is no label value, which is an integer of at least 1")
        if value in parsed:
            raise DatalistError(f"{where}: label value {value} is given twice")
        parsed[value] = tuple(check_phrases(phrases, f"{where}[{str(key)!r}]"))
    return dict(sorted(parsed.items()))


def load_datalist(
    path: str | os.PathLike[str],
    section: str = "training",
    base_dir: str | os.PathLike[str] | None = None,
    optional: bool = False,
    must_exist: bool = True,
) -> list[dict[str, Any]]:
    """Entries of one section of a datalist, checked, with absolute paths.

    Args:
        path: a JSON file ``{"training": [entry, ...], "validation": [...], "testing": [...]}``. An entry is
            ``{"image": path, "label": path or paths, "prompts": {"1": ["vessels", "blood vessels"]}, "absent": [...]}``
            or only the image's path. ``"prompts"`` beside the sections holds for the entries that have none.
        section: ``"training"``, ``"validation"``, ``"testing"``, or another list of the file.
        base_dir: where relative paths are looked for that aren't found beside the JSON: MONAI's lists often start
            from the data's folder.
        optional: a section that is missing or empty gives ``[]`` instead of an error.
        must_exist: whether images and labels have to be there. Without it, the path of one that isn't starts from the
            JSON's folder, and reading it fails: for runs in which one image that fails leaves the others.

    Returns:
        One dictionary an entry: ``image`` (str), ``label`` (str or list of str, where given), ``prompts``
        (``{"1": ["vessels", ...]}``: keys and phrases are strings, which survives JSON, caching and collation),
        ``absent`` (list of str), and whatever else the entry holds, untouched.

    Raises:
        DatalistError: naming the file, section, entry and field at fault.
    """
    path = Path(path)
    content = _read_json(path)
    entries = content.get(section, [] if optional else None)
    if entries is None:
        lists = ", ".join(key for key, value in content.items() if isinstance(value, list)) or "none"
        raise DatalistError(f"{path}: there is no section '{section}'; sections there: {lists}")
    if not isinstance(entries, list):
        raise DatalistError(f"{path}: section '{section}' has to be a list of entries, not {type(entries).__name__}")
    if not entries and not optional:
        raise DatalistError(f"{path}: section '{section}' is empty")
    base = [Path(os.path.abspath(folder)) for folder in (path.parent, base_dir) if folder is not None]
    default = _as_json(content.get(Keys.PROMPTS, {}), f"{path}: {Keys.PROMPTS}")
    return [
        _check_entry(entry, f"{path}: {section}[{index}]", base, default, section != "testing", must_exist)
        for index, entry in enumerate(entries)
    ]


def resolve_datalist(
    dataset_dir: str | os.PathLike[str],
    datalist: str | os.PathLike[str] | None = None,
    *,
    count: int = 400,
    seed: int = 0,
    **phantom_options: Any,
) -> Path:
    """The datalist to use: the one given, else the data folder's own, else that of phantoms made there.

    Phantoms are made only where the folder does not exist at all; they appear there whole or not at all, also
    when several processes ask at once.

    Args:
        dataset_dir: the data folder.
        datalist: a datalist's path; ``dataset_dir`` is not looked at then.
        count: how many phantoms are made.
        seed: of the phantoms.
        **phantom_options: further arguments of `monai_sa2va.data.phantoms.write_phantoms`.

    Returns:
        Path of a JSON file that exists.

    Raises:
        DatalistError: when the datalist given does not exist, or the folder exists and holds none.
        OutputError: when the folder does not exist and can't be made.
    """
    if datalist is not None:
        if not Path(datalist).is_file():
            raise DatalistError(f"datalist {datalist} does not exist; make one with 'monai-sa2va datalist'")
        return Path(datalist)
    folder = Path(dataset_dir)
    if not folder.exists():
        _make_phantoms(folder, count, seed, phantom_options)
    if not (folder / DATALIST_NAME).is_file():
        raise DatalistError(
            f"dataset_dir {folder} holds no {DATALIST_NAME}; make it with "
            f"'monai-sa2va datalist IMAGES MASKS --prompt NAME -o {folder / DATALIST_NAME}'"
        )
    return folder / DATALIST_NAME


def _make_phantoms(folder: Path, count: int, seed: int, options: dict[str, Any]) -> None:
    from monai_sa2va.data.phantoms import write_phantoms

    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # made beside the folder and renamed: an interrupted run leaves no half-filled folder that looks like data
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"dataset_dir {folder} does not exist, and phantoms can't be written there: {error.strerror or error}"
        ) from error
    try:
        write_phantoms(made, count, seed, **options)
        made.chmod(0o755)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / DATALIST_NAME).is_file():
                raise
            _log.info("dataset_dir %s was filled by another process meanwhile", folder)
        else:
            _log.warning("dataset_dir %s does not exist: wrote %d phantoms there", folder, count)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatalistError(f"datalist {path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DatalistError(f"datalist {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatalistError(
            f"datalist {path} has to be an object like {{'training': [...]}}, not a {type(content).__name__}"
        )
    return content


def _check_entry(
    entry: Any, where: str, base: Sequence[Path], default: dict[str, list[str]], needs_label: bool, must_exist: bool
) -> dict[str, Any]:
    if isinstance(entry, str):
        entry = {Keys.IMAGE.value: entry}
    if not isinstance(entry, dict):
        raise DatalistError(f"{where}: an entry is an object like {{'image': path}}, not {_kind(entry)}")
    checked: dict[str, Any] = {**entry}
    if Keys.IMAGE not in entry:
        raise DatalistError(f"{where}.{Keys.IMAGE}: is missing")
    checked[Keys.IMAGE.value] = _find(entry[Keys.IMAGE], f"{where}.{Keys.IMAGE}", base, must_exist)
    prompts = _as_json(entry[Keys.PROMPTS], f"{where}.{Keys.PROMPTS}") if Keys.PROMPTS in entry else default
    checked[Keys.PROMPTS.value] = {key: list(phrases) for key, phrases in prompts.items()}
    absent = entry.get(Keys.ABSENT, [])
    checked[Keys.ABSENT.value] = check_phrases(absent, f"{where}.{Keys.ABSENT}") if absent != [] else []
    named = {phrase.casefold() for phrases in prompts.values() for phrase in phrases}
    for phrase in checked[Keys.ABSENT.value]:
        if phrase.casefold() in named:
            raise DatalistError(f"{where}.{Keys.ABSENT}: '{phrase}' is also among the prompts of this entry")
    label = entry.get(Keys.LABEL)
    if label is None:
        checked.pop(Keys.LABEL.value, None)
        if prompts and needs_label:
            raise DatalistError(f"{where}.{Keys.LABEL}: is missing, but the entry has prompts; give the label's path")
    elif isinstance(label, list) and label:
        checked[Keys.LABEL.value] = [
            _find(item, f"{where}.{Keys.LABEL}[{i}]", base, must_exist) for i, item in enumerate(label)
        ]
    else:
        checked[Keys.LABEL.value] = _find(label, f"{where}.{Keys.LABEL}", base, must_exist)
    return checked


def _as_json(prompts: Any, where: str) -> dict[str, list[str]]:
    return {str(value): list(phrases) for value, phrases in parse_prompts(prompts, where).items()}


def _find(value: Any, where: str, base: Sequence[Path], must_exist: bool) -> str:
    if not isinstance(value, str) or not value:
        raise DatalistError(f"{where}: has to be a path, not {_kind(value)}")
    for folder in base:
        path = os.path.normpath(folder / value)
        if os.path.exists(path):
            return path
    if not must_exist:
        return os.path.normpath(base[0] / value)
    raise DatalistError(f"{where}: {shown_path(value)} does not exist in {' or '.join(map(str, base))}")


def _kind(value: Any) -> str:
    """What a value is; itself it may name a patient, where fields were mixed up."""
    return f"an empty {type(value).__name__}" if value in ("", [], {}) else type(value).__name__
