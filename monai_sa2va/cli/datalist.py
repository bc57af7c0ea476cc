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
"""``monai-sa2va datalist``: from a person's own folders to a datalist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from monai_sa2va.data.make_datalist import MadeDatalist
    from monai_sa2va.data.pairing import LeftOut

__all__ = ["datalist"]

_MOST_ROWS = 50


def datalist(
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of images (png, jpg, tif, bmp, nii, nii.gz, nrrd), nested or not; or Sa2VA's "
            "annotations.json, or nnU-Net's dataset.json."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .json file to write; it is replaced if it is there.")
    ],
    masks: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Argument(
            help="Folder of masks, named like their images or with an ending such as _mask, _label, _seg, _gt. It may "
            "be the images' own folder. Of annotations.json: where its polygons are drawn. [default: masks beside -o]",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--prompt",
            "-p",
            show_default=False,
            help="What the masks show. One name for binary masks (0/1 or 0/255): -p vessels. For label maps one a "
            "value: -p 1=vessels -p '2=optic disc|optic nerve head'. Synonyms are joined by |. annotations.json and "
            "dataset.json say it themselves.",
        ),
    ] = None,
    channel: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Number or name of the channel to take where dataset.json has several.", show_default=False),
    ] = None,
    absent: Annotated[
        list[str] | None,
        typer.Option(help="Something that none of the images shows; the model learns to say so. May be repeated."),
    ] = None,
    negatives: Annotated[
        bool,
        typer.Option(
            help="Teach the structures that a mask doesn't hold as absent from its image. Only right where every "
            "structure that an image shows was drawn."
        ),
    ] = False,
    group_regex: Annotated[
        str | None,
        typer.Option(
            help=r"Tells from a name (folders inside IMAGES and name without suffix) the patient: what its first (...) "
            r"matches, as '(\d+)[LR]'. One patient's images stay in one section. Default: each image by itself."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Shares of training/validation/testing among the patients.", show_default="0.8/0.1/0.1"),
    ] = None,
    validation_groups: Annotated[
        str | None,
        typer.Option(help="Patients for validation, as 09,10; with it or --test-groups, all others are for training."),
    ] = None,
    test_groups: Annotated[str | None, typer.Option(help="Patients for testing, as 11,12,13,14.")] = None,
    mask_suffix: Annotated[
        str | None, typer.Option(help="The end of the masks' names where there are several readers, as _1stHO.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random split.")] = 0,
    include_patient: Annotated[
        bool,
        typer.Option(
            "--include-patient",
            help="Show in messages what may name patients: folders inside IMAGES and MASKS, and all groups.",
        ),
    ] = False,
) -> None:
    """Make a datalist from a folder of images and a folder of masks, or from another project's list.

    Pairs them by name, checks that both fit, notes what each mask holds and splits by patient. What can't be used is
    listed and left out: the exit code is then 1, and 2 where nothing is left.
    """
    # here, so that --help waits for neither numpy nor rich
    from rich.console import Console
    from rich.progress import track

    from monai_sa2va.data.import_datalist import import_datalist
    from monai_sa2va.data.make_datalist import check_target, make_datalist, write_datalist
    from monai_sa2va.data.pairing import Pair
    from monai_sa2va.data.splits import DEFAULT_SPLIT, parse_split
    from monai_sa2va.errors import DatalistError

    # before hours of reading
    check_target(output)
    by_name = validation_groups is not None or test_groups is not None
    if split is not None and by_name:
        raise DatalistError("--split and named groups exclude each other; give one of them")
    console = Console(stderr=True)

    def progress(pairs: Iterable[Pair]) -> Iterable[Pair]:
        return track(
            list(pairs), description="reading", console=console, transient=True, disable=not console.is_terminal
        )

    options: dict[str, Any] = {
        "base_dir": output.parent,
        "group_regex": group_regex,
        "split": DEFAULT_SPLIT if split is None else parse_split(split),
        "validation_groups": _listed(validation_groups),
        "test_groups": _listed(test_groups),
        "seed": seed,
        "include_patient": include_patient,
    }
    if images.suffix.lower() == ".json":
        if absent or negatives or mask_suffix:
            raise DatalistError("--absent, --negatives and --mask-suffix are for folders; leave them out")
        made = import_datalist(
            images, masks or output.parent / "masks", prompts=prompt or [], channel=channel, **options
        )
    elif masks is None or not prompt or channel is not None:
        raise DatalistError("of a folder of images give MASKS and --prompt, and no --channel")
    else:
        made = make_datalist(
            images,
            masks,
            prompt,
            absent=absent or [],
            negatives=negatives,
            mask_suffix=mask_suffix,
            progress=progress,
            **options,
        )
    if made.left_out:
        _show_left_out(made.left_out, console, include_patient)
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if not len(made):
        raise DatalistError(f"no image of {images} and mask of {masks or images} can be used; nothing is written")
    write_datalist(output, made.sections)
    typer.echo(_summary(made, output))
    if made.left_out:
        raise typer.Exit(1)


def _listed(groups: str | None) -> list[str]:
    return [group.strip() for group in (groups or "").split(",") if group.strip()]


def _show_left_out(left_out: list[LeftOut], console: Console, include_patient: bool) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(
        Column("file", overflow="fold"),
        "why it is left out",
        title=f"{len(left_out)} file(s) left out",
        title_justify="left",
    )
    for left in left_out[:_MOST_ROWS]:
        table.add_row(escape(str(left.file) if include_patient else left.file.name), escape(left.reason))
    if len(left_out) > _MOST_ROWS:
        table.add_row("...", f"and {len(left_out) - _MOST_ROWS} more")
    console.print(table)
    if not include_patient and len({left.file.name for left in left_out}) < len(left_out):
        console.print("some of these have one name; --include-patient shows their folders")


def _summary(made: MadeDatalist, output: Path) -> str:
    from collections import Counter

    names = Counter(
        synonyms[0] for entries in made.sections.values() for entry in entries for synonyms in entry["prompts"].values()
    )
    sections = ", ".join(
        f"{section} {len(entries)} (groups: {len(made.groups[section])})" for section, entries in made.sections.items()
    )
    shown = ", ".join(f"{name} in {count}" for name, count in names.items())
    return f"wrote {output}: {len(made)} pairs; {sections}; {shown}"
