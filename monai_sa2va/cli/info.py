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

"""``monai-sa2va info``: what is installed, on which devices it would run, and which bundle it would use."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from monai_sa2va import __version__
from monai_sa2va.bundles import find_bundle
from monai_sa2va.errors import ConfigError

__all__ = ["collect", "info"]

_PACKAGES = (
    "torch",
    "torchvision",
    "monai",
    "transformers",
    "sam2",
    "pytorch-ignite",
    "numpy",
    "pydicom",
    "monailabel",
)


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs and bug reports.")] = False,
) -> None:
    """Show versions, devices and the bundle in use."""
    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"monai-sa2va {facts['monai_sa2va']} on Python {facts['python']}, {facts['platform']}")
    for name, version in facts["packages"].items():
        typer.echo(f"  {name:15} {version or 'not installed'}")
    for device in facts["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        typer.echo(f"device {device['name']}: {device['description']}{memory}")
    bundle = facts["bundle"]
    typer.echo(f"bundle {bundle['path']} ({bundle['source']})" if "path" in bundle else f"bundle: {bundle['error']}")


def collect() -> dict[str, Any]:
    """Gather what :func:`info` shows.

    Returns:
        Plain values, fit for JSON: ``monai_sa2va`` and ``python`` (versions), ``platform``, ``packages`` (name to
        version, ``None`` where it is not installed), ``devices`` (each with ``name`` as torch takes it, ``description``
        and, for GPUs, ``memory_gib``), ``bundle`` (``path`` and ``source``, or ``error``).
    """
    return {
        "monai_sa2va": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": _devices(),
        "bundle": _bundle(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [
        {"name": "cpu", "description": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": f"cuda:{index}",
                "description": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "description": "Apple GPU"})
    return devices


def _bundle() -> dict[str, str]:
    try:
        found = find_bundle()
    except ConfigError as error:  # a missing bundle is a finding here, not a failure
        return {"error": str(error)}
    return {"path": str(found.path), "source": found.source}
