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

"""A network with the weights of a checkpoint, which stream into it one tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from monai_sa2va.checkpoints.source import CheckpointSource, open_checkpoint
from monai_sa2va.config import GroundingConfig, Sa2VAConfig
from monai_sa2va.errors import CheckpointError

if TYPE_CHECKING:
    from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["as_dtype", "build_without_memory", "load_pretrained", "load_source"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_Network = TypeVar("_Network", bound="Sa2VA")


def load_pretrained(
    network_type: type[_Network],
    path: str | os.PathLike[str],
    *,
    sam2_config: GroundingConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    allow_pickle: bool = False,
) -> _Network:
    """Build the network of a checkpoint and load its weights, strictly.

    At no time more than the network's own weights and one tensor of the checkpoint are in memory.

    Args:
        network_type: :class:`~monai_sa2va.networks.sa2va.Sa2VA` or a subclass.
        path: as for :func:`~monai_sa2va.checkpoints.source.open_checkpoint`, like the next and ``allow_pickle``.
        sam2_config: SAM2's geometry where it isn't hiera-L.
        dtype: of all floating point weights; ``None`` keeps the checkpoint's own.
        device: where the weights go; by default the CPU.
        allow_pickle: read pickles where there are no safetensors.

    Returns:
        In evaluation mode.

    Raises:
        CheckpointError: when the checkpoint can't be used, or its keys aren't exactly the network's.
        ConfigError: when its tokenizer can't be used, as one without [SEG], or ``dtype`` or the device can't.
    """
    wanted = as_dtype(dtype)
    source = open_checkpoint(path, sam2_config=sam2_config, allow_pickle=allow_pickle)
    return load_source(network_type, source, wanted, device)


def load_source(
    network_type: type[_Network],
    source: CheckpointSource,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> _Network:
    """As :func:`load_pretrained`, of a checkpoint that is open already."""
    network = build_without_memory(network_type, source.config)
    state = network.state_dict()
    source.check(state)
    wanted = source.dtype() if dtype is None else dtype
    target = torch.device("cpu" if device is None else device)
    places = {name: (module, key) for name, module, key in _places(network)}
    # in the order of the files, so that each is read once
    for official in source.weights:
        for name, part in source.layout.split(official, source.weights.tensor(official)).items():
            kind = wanted if part.is_floating_point() else part.dtype
            # a copy: the tensor itself may lie in the file
            _put(*places[name], part.to(target, kind, copy=True).contiguous())
    # what no checkpoint holds, such as tables of rotary positions
    return network.to(target).eval()


def build_without_memory(network_type: type[_Network], config: Sa2VAConfig) -> _Network:
    """A network whose weights are on the meta device, and whose tables are real."""
    with torch.device("meta"):
        return network_type(config)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A type of weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``, as text or as torch's own.

    Raises:
        CheckpointError: for another.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise CheckpointError(f"dtype is {name!r}; give {', '.join(_DTYPES)}, or none for the checkpoint's own")
    return _DTYPES[name]


def _places(network: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Where each entry of the network's state is: its name, the module that has it, and its name there."""
    owners = dict(network.named_modules())
    found = []
    for name in network.state_dict():
        owner, _, key = name.rpartition(".")
        found.append((name, owners[owner], key))
    return found


def _put(module: nn.Module, key: str, value: torch.Tensor) -> None:
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(value, requires_grad=value.is_floating_point())
    else:
        module._buffers[key] = value
