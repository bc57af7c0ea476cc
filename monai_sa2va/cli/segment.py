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

"""``monai-sa2va segment``: images and sentences in, masks on the images' own grids out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monai_sa2va.errors import ConfigError

if TYPE_CHECKING:
    from monai_sa2va.predictor import Segmenter
    from monai_sa2va.writers.results import ResultWriter

__all__ = ["Axis", "Context", "Device", "Mode", "segment"]


class Axis(str, Enum):
    """What ``--axis`` takes."""

    AUTO = "auto"
    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class Context(str, Enum):
    """What ``--context`` takes."""

    FIRST5 = "first5"


class Device(str, Enum):
    """What ``--device`` takes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Mode(str, Enum):
    """What ``--mode`` takes."""

    SEGMENT = "segment"
    CHAT = "chat"


def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="PNG, JPEG, TIFF, BMP, NIfTI or NRRD files, or folders of them. Volumes go slice by slice.",
        ),
    ],
    prompt: Annotated[
        list[str],
        typer.Option("-p", "--prompt", help="What to segment, e.g. 'Segment the vessels.' Give it several times."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Gets a folder an image, and tables over all.")
    ],
    bundle: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option(metavar="DIR", help="MONAI Bundle. [default: MONAI_SA2VA_BUNDLE, ./bundle, the installed one]"),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="PATH",
            help="Weights in place of the bundle's: a .pt or .safetensors file, or the folder of an official or "
            "converted checkpoint.",
        ),
    ] = None,
    adapter: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="What a fine-tuning of these weights wrote: adapter.safetensors."),
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="Of the masks, separated by commas; png is for pictures only.")
    ] = "png,nifti",
    window: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="How grey values are shown: auto, dtype, percentile, a CT window such as lung, or JSON such as "
            '\'{"kind": "hu", "center": 40, "width": 400}\' or \'{"nonfinite": "lower"}\'. '
            "[default: as in the checkpoint's training]"
        ),
    ] = None,
    axis: Annotated[
        Optional[Axis],  # noqa: UP045
        typer.Option(
            help="How volumes are sliced; auto takes the plane in which each was taken. [default: as in the "
            "checkpoint's training]"
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="segment: one mask for each structure that a prompt names. chat: the language model answers freely, "
            "with masks or without; of a volume it looks at the middle slice."
        ),
    ] = Mode.SEGMENT,
    context: Annotated[
        Optional[Context],  # noqa: UP045
        typer.Option(
            help="first5, for a cine, as the reference does: the language model sees its first five frames, and memory "
            "carries what they show forward. [default: each slice is asked by itself]"
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes the GPU where there is one.")] = Device.AUTO,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of an earlier run.")] = False,
    include_patient: Annotated[
        bool,
        typer.Option(
            "--include-patient",
            help="Keep what may name the patient: texts of NIfTI headers in masks and reports, folders in messages.",
        ),
    ] = False,
) -> None:
    """Segment images by sentences; write masks, an overview picture and a report for each, and tables over all.

    Research use only. Not a medical device; not for diagnosis.
    """
    from monai_sa2va.inferers.image import check_prompts
    from monai_sa2va.predictor import Segmenter
    from monai_sa2va.writers.results import ResultWriter

    prompts = check_prompts(prompt)
    images = _images(inputs)
    writer = ResultWriter(output, [item.strip() for item in file_format.split(",")], overwrite, include_patient)
    segmenter = Segmenter.from_bundle(
        bundle,
        checkpoint=checkpoint,
        adapter=adapter,
        device=None if device is Device.AUTO else device.value,
        window=window,
        axis=None if axis is None else axis.value,
    )
    try:
        _run(segmenter, writer, images, prompts, mode.value, None if context is None else context.value)
    finally:
        writer.close()
    done = len(writer.results) - len(writer.failed)
    typer.echo(f"segmented {done} of {len(images)} images; results are in {output}")
    if writer.failed:
        raise typer.Exit(1 if done else 2)


def _images(inputs: list[Path]) -> list[Path]:
    """The files named, and those in the folders named; a missing file is left to fail on its own."""
    from monai_sa2va.data.read_image import list_images

    images: list[Path] = []
    for place in inputs:
        images += [Path(entry["image"]) for entry in list_images(place)] if place.is_dir() else [place]
    if not images:
        raise ConfigError("there is no INPUT; name files or folders")
    return images


def _run(
    segmenter: Segmenter, writer: ResultWriter, images: list[Path], prompts: list[str], mode: str, context: str | None
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # a bar is for people; logs get the lines below it only
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        whole = bars.add_task("images", total=len(images))
        slices = bars.add_task("slices", total=1, visible=False)
        for image in images:

            def show(done: int, total: int) -> None:
                bars.update(slices, completed=done, total=total, visible=total > 1)

            result = writer.process(segmenter, image, prompts, show, mode=mode, context=context)
            if result.error:
                shown = image if writer.include_patient else result.image
                bars.console.print(f"{shown}: {result.error}", markup=False, highlight=False, soft_wrap=True)
            bars.advance(whole)
