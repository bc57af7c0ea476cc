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

"""``monai-sa2va phantoms``: write made images with truth and their datalist."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from monai_sa2va.errors import ConfigError

__all__ = ["FileFormat", "Kind", "Look", "phantoms"]


class FileFormat(str, Enum):
    """What ``--format`` takes."""

    PNG = "png"
    NIFTI = "nifti"
    DICOM = "dicom"


class Kind(str, Enum):
    """What ``--kind`` takes."""

    IMAGE = "image"
    VOLUME = "volume"
    CINE = "cine"


class Look(str, Enum):
    """What ``--look`` takes."""

    FUNDUS = "fundus"
    CT = "ct"
    ULTRASOUND = "ultrasound"


def phantoms(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="New or empty folder; gets images/, labels/ and datalist.json."),
    ],
    count: Annotated[int, typer.Option(help="Number of images, volumes or cines.")] = 320,
    seed: Annotated[
        int, typer.Option(help="Seed of the first image; the next ones count up. The same seed gives the same image.")
    ] = 0,
    size: Annotated[int, typer.Option(help="Side of the images, pixels, 32 to 4096; 512 for volumes and cines.")] = 128,
    look: Annotated[
        Optional[list[Look]],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option(
            help="What is shown; give it several times for several. [default: all in turns, no fundus in volumes]"
        ),
    ] = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="Single images, volumes of slices, or cines: films of frames. The last two are NIfTI or DICOM."
        ),
    ] = Kind.IMAGE,
    slices: Annotated[int, typer.Option(help="Slices of a volume or frames of a cine, 8 to 256.")] = 24,
    file_format: Annotated[
        Optional[FileFormat],  # noqa: UP045
        typer.Option(
            "--format",
            help="nifti is grey; png is RGB for the fundus and grey for the others; dicom is a folder a series, with "
            "its truth as a SEG. [default: png for images, else nifti]",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Shares of training, validation and testing in the datalist; 0/0/1 for a test set.")
    ] = "0.8/0.1/0.1",
) -> None:
    """Write images made in code, with their truth: something to train, try and test on without any data.

    Fundus photographs, CT slices and ultrasound fans hold vessels, organs and lesions; what each image shows and
    what it lacks stands in the datalist, which training takes as it is.
    """
    shares = _parse_split(split)

    looks = [item.value for item in look] if look else None
    if file_format is FileFormat.DICOM:
        from monai_sa2va.writers.phantom_dicom import write_dicom_phantoms

        datalist = write_dicom_phantoms(folder, count, seed, size, looks, shares, kind.value, slices)
    else:
        from monai_sa2va.data.phantoms import write_phantoms

        written_as = None if file_format is None else file_format.value
        datalist = write_phantoms(folder, count, seed, size, looks, written_as, shares, kind.value, slices)
    typer.echo(f"wrote {count} phantom{'' if kind is Kind.IMAGE else f' {kind.value}'}s and {datalist}")


def _parse_split(text: str) -> dict[str, float]:
    """``"0.8/0.1/0.1"`` as shares by section."""
    parts = text.split("/")
    try:
        training, validation, testing = (float(part) for part in parts)
    except ValueError as error:
        raise ConfigError(f"--split is {text!r}; give three shares like 0.8/0.1/0.1") from error
    return {"training": training, "validation": validation, "testing": testing}
