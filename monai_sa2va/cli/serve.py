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

"""``monai-sa2va serve``: the MONAI Label server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["Device", "Modality", "serve"]


class Device(str, Enum):
    """What ``--device`` takes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Modality(str, Enum):
    """What ``--modality`` takes."""

    CT = "CT"
    MR = "MR"
    XA = "XA"
    US = "US"


def serve(
    studies: Annotated[str, typer.Option(metavar="DIR|URL", help="Folder of images, or address of a DICOMweb server.")],
    bundle: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it, and Python 3.10 has to as well
        typer.Option(metavar="DIR", help="MONAI Bundle. [default: MONAI_SA2VA_BUNDLE, ./bundle, the installed one]"),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PATH", help="Weights in place of the bundle's, as for segment."),
    ] = None,
    adapter: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="What a fine-tuning of these weights wrote: adapter.safetensors."),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Names that clients show, separated by commas, e.g. 'vessels,lesion'.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Number to listen at.")] = 8000,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines in without authentication.")
    ] = False,
    modality: Annotated[Modality, typer.Option(help="Of the series of a DICOMweb server.")] = Modality.CT,
    device: Annotated[Device, typer.Option(help="auto takes the GPU where there is one.")] = Device.AUTO,
    max_upload: Annotated[int, typer.Option(min=1, metavar="MiB", help="Longest request.")] = 1024,
    cache: Annotated[
        int, typer.Option(min=0, metavar="MiB", help="Most that is kept of known images' features, on the device.")
    ] = 1024,
    state: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR", help="For sessions and what training writes. [default: ~/.local/state/monai-sa2va/label]"
        ),
    ] = None,
) -> None:
    """Serve 3D Slicer and OHIF through MONAI Label: type a sentence, click to correct, submit, train.

    Research use only. Not a medical device; not for diagnosis.
    """
    from monai_sa2va.label.serve import default_state
    from monai_sa2va.label.serve import serve as start
    from monai_sa2va.label.server import ServerSettings

    files = {"bundle": bundle, "checkpoint": checkpoint, "adapter": adapter}
    # the server's processes may work in another folder
    conf = {key: str(path.resolve()) for key, path in files.items() if path is not None}
    conf["cache_mib"] = str(cache)
    if labels:
        conf["labels"] = labels
    if device is not Device.AUTO:
        conf["device"] = device.value
    start(
        ServerSettings(
            studies=studies if "://" in studies else str(Path(studies).resolve()),
            state=(state or default_state()).resolve(),
            host=host,
            port=port,
            max_upload=max_upload * 2**20,
            conf=conf,
            modality=modality.value,
        ),
        allow_remote,
    )
