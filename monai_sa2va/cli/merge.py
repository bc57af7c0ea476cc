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

"""``monai-sa2va merge``: a whole checkpoint, or a peft folder, from an adapter and its base."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from monai_sa2va.errors import ConfigError

__all__ = ["DType", "Target", "merge"]


class Target(str, Enum):
    """What ``--to`` takes."""

    WHOLE = "whole"
    PEFT = "peft"


class DType(str, Enum):
    """What ``--dtype`` takes."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def merge(
    adapter: Annotated[Path, typer.Argument(help="What fine-tuning wrote: adapter.safetensors.")],
    base: Annotated[Path, typer.Option(metavar="FILE", help="The checkpoint that it was fine-tuned from.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The .safetensors or .pt file to write; of a peft adapter its folder."),
    ],
    to: Annotated[
        Target,
        typer.Option(help="whole: a checkpoint that needs neither. peft: a folder that peft's PeftModel loads."),
    ] = Target.WHOLE,
    dtype: Annotated[
        Optional[DType],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option(
            help="Of a whole checkpoint's weights. [default: float32 for those that changed, else the base's own]"
        ),
    ] = None,
) -> None:
    """Merge an adapter into the checkpoint that it was fine-tuned from; any other one is refused.

    Says how many tensors came from where.
    """
    import torch

    from monai_sa2va.checkpoints.adapters import merge_files
    from monai_sa2va.checkpoints.peft_folder import write_peft_folder

    if to is Target.PEFT:
        if dtype is not None:
            raise ConfigError("--dtype is for --to whole; a peft folder keeps the adapter's types")
        counts = write_peft_folder(adapter, base, output)
        typer.echo(f"wrote {output}: {counts.language_model} tensors for peft, {counts.others} of the other parts")
        return
    made = merge_files(base, adapter, output, None if dtype is None else getattr(torch, dtype.value))
    typer.echo(
        f"wrote {output}: {made.base} tensors as in {base.name}, {made.lora} with LoRA of {adapter.name} added, "
        f"{made.replaced} of {adapter.name}"
    )
