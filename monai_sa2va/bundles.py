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

"""Where the MONAI Bundle is: named by the caller, by the environment, in the working directory, or in the package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from monai_sa2va.errors import ConfigError

__all__ = ["BUNDLE_VARIABLE", "BundleLocation", "find_bundle"]

BUNDLE_VARIABLE = "MONAI_SA2VA_BUNDLE"


@dataclass(frozen=True)
class BundleLocation:
    """A bundle and how it was found.

    Attributes:
        path: the folder that holds ``configs/metadata.json``, absolute.
        source: ``"argument"``, ``"environment"``, ``"working directory"``, ``"package"`` (the copy in the wheel) or
            ``"checkout"`` (the repository that the package is run from).
    """

    path: Path
    source: str


def find_bundle(bundle: str | os.PathLike[str] | None = None) -> BundleLocation:
    """Find the bundle to work with.

    In this order: the argument, the environment variable ``MONAI_SA2VA_BUNDLE``, ``./bundle``, the copy that the wheel
    carries, the checkout that the package is run from. The first two are taken at their word: where one of them is
    wrong, nothing else is tried.

    Args:
        bundle: folder of the bundle, as given by the user.

    Returns:
        The folder and how it was found.

    Raises:
        ConfigError: when the named folder is no bundle, or no bundle is found anywhere.
    """
    named = (
        ("argument", "the bundle folder", bundle),
        ("environment", BUNDLE_VARIABLE, os.environ.get(BUNDLE_VARIABLE)),
    )
    for source, what, value in named:
        if value:
            if not _is_bundle(Path(value)):
                raise ConfigError(f"{what} {os.fspath(value)!r} has no configs/metadata.json; name a MONAI Bundle")
            return BundleLocation(Path(value).resolve(), source)

    package = Path(__file__).resolve().parent
    places = (
        ("working directory", Path("bundle")),
        ("package", package / "_bundle"),
        ("checkout", package.parent / "bundle"),
    )
    for source, place in places:
        if _is_bundle(place):
            return BundleLocation(place.resolve(), source)
    raise ConfigError(
        f"no bundle found: set {BUNDLE_VARIABLE} to a folder with configs/metadata.json, or reinstall monai-sa2va"
    )


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()
