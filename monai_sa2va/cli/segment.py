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
from typing import Annotated, Optional

import typer

__all__ = ["Axis", "Context", "Device", "Mode", "Planes", "Volume", "segment"]


class Axis(str, Enum):
    """What ``--axis`` takes."""

    AUTO = "auto"
    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class Context(str, Enum):
    """What ``--context`` takes."""

    SWEEP = "sweep"
    UNIFORM = "uniform"
    FIRST5 = "first5"


class Volume(str, Enum):
    """What ``--volume`` takes."""

    AUTO = "auto"
    SLICES = "slices"
    PROPAGATE = "propagate"


class Planes(str, Enum):
    """What ``--planes`` takes."""

    ONE = "one"
    MAJORITY = "majority"
    MEAN = "mean"


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
            help="Folders, zips or files: DICOM of any depth; PNG, JPEG, TIFF, BMP, NIfTI or NRRD directly in a "
            "folder. Volumes go slice by slice.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Gets a folder an image, and tables over all.")
    ],
    prompt: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option("-p", "--prompt", help="What to segment, e.g. 'Segment the vessels.' Give it several times."),
    ] = None,
    where: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="KEYWORD=VALUE,...",
            help="Which DICOM series, e.g. Modality=CT,BodyPartExamined=CHEST*; of values of one keyword any will do.",
        ),
    ] = None,
    rules: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="JSON or YAML: which series are asked what, and how they are shown."),
    ] = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
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
        Optional[str],  # noqa: UP045
        typer.Option(
            "--format", help="Of the masks, separated by commas; png is for pictures only. [default: what suits each]"
        ),
    ] = None,
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
    volume: Annotated[
        Volume,
        typer.Option(
            help="slices: each slice is asked by itself; propagate: those that show an object best, and memory draws "
            "the others; auto: propagate of cines, else slices."
        ),
    ] = Volume.AUTO,
    planes: Annotated[
        Planes,
        typer.Option(
            help="Of volumes with nearly isotropic voxels: majority or mean of what axial, coronal and sagittal slices "
            "show."
        ),
    ] = Planes.ONE,
    roi_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=16, metavar="PIXELS", help="Draw in overlapping windows of this side, for thin structures."),
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes the GPU where there is one.")] = Device.AUTO,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Do again what an earlier run has done with the same prompts and weights."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it will take; write nothing.")
    ] = False,
    shard: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="I/N", help="Do the i-th of n parts alone, as in a job array; all may share one folder."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Spread the images over so many workers by Ray. [default with --ray: one a GPU]"),
    ] = None,
    ray: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="ADDRESS", help="Ray's cluster: its address, auto, or local for this computer alone, the default."
        ),
    ] = None,
    include_patient: Annotated[
        bool,
        typer.Option(
            "--include-patient",
            help="Keep what may name the patient: texts of NIfTI headers in masks and reports, folders in messages.",
        ),
    ] = False,
) -> None:
    """Segment images and DICOM series by sentences; write masks, an overview picture and a report for each, and tables.

    What is done already with the same prompts, options and weights is not done again.

    Research use only. Not a medical device; not for diagnosis.
    """
    from monai_sa2va.batch.command import Command
    from monai_sa2va.cli.progress import Progress
    from monai_sa2va.errors import DataError

    command = Command.of(
        inputs,
        prompt or [],
        output,
        where=where,
        rules=rules,
        formats=None if file_format is None else [item.strip() for item in file_format.split(",")],
        mode=mode.value,
        context=None if context is None else context.value,
        overwrite=overwrite,
        include_patient=include_patient,
        shard=shard,
        bundle=bundle,
        checkpoint=checkpoint,
        adapter=adapter,
        device=None if device is Device.AUTO else device.value,
        window=window,
        axis=None if axis is None else axis.value,
        volume=volume.value,
        planes=planes.value,
        roi_size=roi_size,
    )
    if dry_run:
        typer.echo("\n".join(command.describe()))
        return
    with Progress(command.jobs, include_patient) as progress:
        tables = command.run(progress.outcome, progress.slices, workers, ray)
    typer.echo(f"{tables.told()}; results are in {output}")
    # what failed has had its line
    if tables.exit_code == 2 and not tables.failed:
        raise DataError(tables.nothing_done())
    if tables.exit_code:
        raise typer.Exit(tables.exit_code)
