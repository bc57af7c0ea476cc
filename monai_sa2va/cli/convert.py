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

"""``monai-sa2va convert``: an official checkpoint becomes one of this package, and is given back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["Dtype", "Form", "convert"]


class Form(str, Enum):
    """What ``--to`` takes."""

    BUNDLE = "bundle"
    HF = "hf"


class Dtype(str, Enum):
    """What ``--dtype`` takes."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Folder or hub id of an official Sa2VA checkpoint, or a checkpoint of this package, file or folder.",
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not be there yet.")],
    to: Annotated[
        Form,
        typer.Option(
            help="bundle: a folder for segment --checkpoint and for training. hf: the official keys and config.json, "
            "as the Hugging Face hub has them."
        ),
    ],
    sam2_config: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option(metavar="FILE", help="JSON of SAM2's geometry, where SRC has another than hiera-L."),
    ] = None,
    dtype: Annotated[
        Optional[Dtype],  # noqa: UP045
        typer.Option(help="Type of the weights. [default: as in SRC, bit by bit]"),
    ] = None,
    list_tensors: Annotated[
        bool, typer.Option("--list-tensors", help="Print each tensor with where it came from.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Read pytorch_model.bin where there are no safetensors; no code is run."),
    ] = False,
) -> None:
    """Convert a checkpoint, and show which tensors came from where."""
    from monai_sa2va.checkpoints.convert import convert_checkpoint

    done = convert_checkpoint(
        source,
        destination,
        to.value,
        sam2_config=sam2_config,
        dtype=None if dtype is None else dtype.value,
        allow_pickle=allow_pickle,
    )
    for tensor in done.tensors if list_tensors else ():
        typer.echo(str(tensor))
    for part, number, files in done.by_part():
        typer.echo(f"{part:36}{number:6} tensors from {', '.join(files) or 'nowhere'}")
    for remark in done.remarks:
        typer.echo(f"note: {remark}")
    typer.echo(f"wrote {len(done.tensors)} tensors, all from {source}, to {destination}")
