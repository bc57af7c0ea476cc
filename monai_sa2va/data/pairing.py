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
"""Which mask belongs to which image, told by their names alone; what is not plain is refused, never guessed."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from monai_sa2va.data.headers import SUFFIXES, image_suffix
from monai_sa2va.errors import DatalistError

__all__ = ["LeftOut", "Pair", "find_images", "pair_by_name"]

# the hyphen stands last, as these also make a character class
_SEPARATORS = "_. -"
_MASK_WORDS = "mask|masks|label|labels|seg|segm|segmentation|gt|groundtruth|manual|manual1|annotation|1stHO|2ndHO"
_IMAGE_WORDS = "image|images|img|training|test|0000"
_MASK_ENDING = re.compile(rf"((^|[{_SEPARATORS}])({_MASK_WORDS}))+$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(rf"((^|[{_SEPARATORS}])({_IMAGE_WORDS}))+$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
        name: the image's path inside the images' folder, without its suffix, with ``/`` between folders.
    """

    image: Path
    mask: Path
    name: str


@dataclass(frozen=True)
class LeftOut:
    """A file that is in no entry, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class _Named:
    """A file with what is compared of it: its subfolder, its name without suffix, and that without known endings."""

    path: Path
    folder: str
    stem: str
    core: str


_Edges = list[tuple[_Named, _Named]]


def find_images(folder: str | Path) -> list[Path]:
    """Files in a folder and the folders inside it whose suffix is one of `SUFFIXES`, hidden ones left out, sorted.

    Raises:
        DatalistError: when the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatalistError(f"folder {folder} does not exist")
    found = (path for path in folder.rglob("*") if image_suffix(path) and path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def pair_by_name(
    images: str | Path, masks: str | Path, mask_suffix: str | None = None
) -> tuple[list[Pair], list[LeftOut]]:
    """Pair the images of one folder with the masks of another, or of the same one.

    Names are compared without suffix and upper or lower case, in this order, each time first inside the same
    subfolder and then anywhere: equal; equal but for endings such as ``_mask``, ``-label``, ``_seg``, ``_1stHO`` or, of
    images, ``_image``, ``_0000``; one the beginning of the other up to ``_``, ``-``, ``.`` or a space (the longest
    such name wins). Whatever several files could claim is left out.

    Args:
        images: folder of images.
        masks: folder of masks; where it lies inside ``images``, its files are no images, and the other way round.
            The same folder for both is allowed: masks are then the files with an ending such as ``_mask``.
        mask_suffix: the end of a mask's name before its suffix, e.g. ``"_1stHO"``: only such files are masks.

    Returns:
        The pairs by path, and the files that are in none of them.

    Raises:
        DatalistError: when a folder does not exist or holds no file of a known kind.
    """
    images, masks = Path(images), Path(masks)
    image_files, mask_files = find_images(images), find_images(masks)

    def is_mask(path: Path) -> bool:
        stem = _without_suffix(path.name)
        return bool(_MASK_ENDING.search(stem)) if mask_suffix is None else stem.endswith(mask_suffix)

    if os.path.samefile(images, masks):
        image_files = [path for path in image_files if not is_mask(path)]
        mask_files = [path for path in mask_files if is_mask(path)]
    else:
        image_files = _outside(image_files, images, masks)
        mask_files = [path for path in _outside(mask_files, masks, images) if mask_suffix is None or is_mask(path)]
    for what, folder, files in (("image", images, image_files), ("mask", masks, mask_files)):
        if not files:
            ending = f" ending in '{mask_suffix}'" if what == "mask" and mask_suffix else ""
            raise DatalistError(f"folder {folder} holds no {what}{ending}; known kinds: {', '.join(SUFFIXES)}")
    cut = len(mask_suffix or "")
    loose_images = [_named(path, images, _IMAGE_ENDING) for path in image_files]
    loose_masks = [_named(path, masks, _MASK_ENDING, cut) for path in mask_files]
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for tier in _TIERS:
        edges = tier(loose_images, loose_masks)
        masks_of, images_of = defaultdict(list), defaultdict(list)
        for image, mask in edges:
            masks_of[image].append(mask)
            images_of[mask].append(image)
        for image, mask in edges:
            if len(masks_of[image]) == len(images_of[mask]) == 1:
                pairs.append(Pair(image.path, mask.path, _without_suffix(image.path.relative_to(images).as_posix())))
        for claims, kind in ((masks_of, "mask"), (images_of, "image")):
            back = images_of if kind == "mask" else masks_of
            for file, claimed in claims.items():
                if len(claimed) > 1:
                    left_out.append(LeftOut(file.path, f"several {kind}s have its name: {_names(claimed)}"))
                elif len(back[claimed[0]]) > 1:
                    left_out.append(
                        LeftOut(file.path, f"shares {claimed[0].path.name} with {_names(back[claimed[0]], file)}")
                    )
        loose_images = [image for image in loose_images if image not in masks_of]
        loose_masks = [mask for mask in loose_masks if mask not in images_of]
    left_out += [LeftOut(image.path, "no mask has its name") for image in loose_images]
    left_out += [LeftOut(mask.path, "no image has its name") for mask in loose_masks]
    return sorted(pairs, key=lambda pair: pair.image), sorted(left_out, key=lambda left: left.file)


def _equal(key: Callable[[_Named], tuple[str, ...] | None]) -> Callable[[list[_Named], list[_Named]], _Edges]:
    """A tier: image and mask belong together where their keys are equal (and not None)."""

    def tier(images: list[_Named], masks: list[_Named]) -> _Edges:
        by_key = defaultdict(list)
        for mask in masks:
            by_key[key(mask)].append(mask)
        return [(image, mask) for image in images if key(image) is not None for mask in by_key.get(key(image), ())]

    return tier


def _beginning(folder: Callable[[_Named], str]) -> Callable[[list[_Named], list[_Named]], _Edges]:
    """A tier: image and mask belong together where the core of one is the longest known beginning of the other's."""

    def longer(these: list[_Named], those: list[_Named]) -> Iterator[tuple[_Named, _Named]]:
        by_core = defaultdict(list)
        for that in those:
            by_core[folder(that), that.core].append(that)
        for this in these:
            ends = [i for i in range(len(this.core) - 1, 0, -1) if this.core[i] in _SEPARATORS]
            found = next((by_core[key] for i in ends if (key := (folder(this), this.core[:i])) in by_core), [])
            yield from ((this, that) for that in found)

    def tier(images: list[_Named], masks: list[_Named]) -> _Edges:
        return [*longer(images, masks), *((image, mask) for mask, image in longer(masks, images))]

    return tier


# the closest likeness first: what it decides, a looser one no longer sees
_TIERS = (
    _equal(lambda file: (file.folder, file.stem)),
    _equal(lambda file: (file.stem,)),
    _equal(lambda file: (file.folder, file.core)),
    # a core may be empty ("p1/image.nii" and "p1/mask.nii"): then only the folder tells
    _equal(lambda file: (file.core,) if file.core else None),
    _beginning(lambda file: file.folder),
    _beginning(lambda file: ""),
)


def _named(path: Path, folder: Path, ending: re.Pattern[str], cut: int = 0) -> _Named:
    stem = _without_suffix(path.name)
    stem = stem[: len(stem) - cut].casefold()
    return _Named(path, path.parent.relative_to(folder).as_posix().casefold(), stem, ending.sub("", stem))


def _without_suffix(name: str) -> str:
    return name[: len(name) - len(image_suffix(name))]


def _outside(files: list[Path], folder: Path, other: Path) -> list[Path]:
    """Files that don't lie in the other folder, where that one lies inside this one."""
    if folder.resolve() not in other.resolve().parents:
        return files
    return [path for path in files if other.resolve() not in path.resolve().parents]


def _names(files: list[_Named], without: _Named | None = None) -> str:
    return ", ".join(sorted(file.path.name for file in files if file is not without))
