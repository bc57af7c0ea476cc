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

"""Loading weights: strictly, safely, and with one clear line where they don't fit."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from monai_sa2va.checkpoints.fit import check_fit
from monai_sa2va.checkpoints.info import checkpoint_file, is_adapter, read_info
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError

__all__ = ["load_weights", "read_weights"]

_LOGGER = logging.getLogger(__name__)
_SAFETENSORS = ".safetensors"
_NO_WEIGHTS = (
    "it is damaged, or holds more than tensors, and code in it is never run; "
    "give a state dictionary that torch.save wrote, or a .safetensors file"
)
_Network = TypeVar("_Network", bound=nn.Module)


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a file of weights, without running any code that it may hold.

    Args:
        path: a ``.safetensors`` file, or what ``torch.save`` wrote: a state dictionary, or a dictionary that holds one
            under ``"model"``, as MONAI's ``CheckpointSaver`` writes it. Or the folder of a converted checkpoint.

    Returns:
        Tensors on the CPU, by parameter name.

    Raises:
        CheckpointError: when the file is missing, unreadable, or holds something else.
    """
    path = checkpoint_file(path)
    try:
        if path.suffix.lower() == _SAFETENSORS:
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    # torch has no error class of its own for damaged files
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        # torch advises to load such a file with its code, which would be run
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
            reason = _NO_WEIGHTS
        reason = reason[:200] or type(error).__name__
        raise CheckpointError(f"{path.name} can't be read as a checkpoint: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path.name} holds no state dictionary, and none under 'model'; save one there")
    return {str(key): value for key, value in content.items()}


def load_weights(network: _Network, path: str | os.PathLike[str]) -> _Network:
    """Load weights into a network; every parameter has to be there, with its shape, and nothing else.

    Where the checkpoint says that its SAM2 had other settings, such as another size of image, a warning names them:
    the parameters may fit all the same, and do worse.

    Args:
        network: changed in place, and only where all fits.
        path: as for :func:`read_weights`.

    Returns:
        The same network, for use in a configuration.

    Raises:
        CheckpointError: when the file can't be read, or keys are missing, unexpected or of another shape.
    """
    weights = read_weights(path)
    own = network.state_dict()
    try:
        check_fit(
            {key: value.shape for key, value in own.items()},
            {key: value.shape for key, value in weights.items()},
            Path(path).name,
            "Give the checkpoint that was trained with this bundle's network_def",
        )
    except CheckpointError:
        _refuse_adapter(Path(path), weights)
        raise
    network.load_state_dict(weights)
    _compare_settings(network, path)
    return network


def _refuse_adapter(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Say of an adapter, or of LoRA's weights, what they are.

    Raises:
        CheckpointError: where the file is one.
    """
    if is_adapter(read_info(path)):
        raise CheckpointError(
            f"{path.name} is an adapter, which holds only what was trained; give it as adapter, and its base here"
        )
    lora = next((key for key in weights if ".lora_" in key), None)
    if lora is not None:
        raise CheckpointError(
            f"{path.name} holds LoRA weights ({lora}) without their configuration (rank, alpha, base), so they can't "
            "be merged; give the adapter that the training wrote, or merged weights"
        )


def _compare_settings(network: nn.Module, path: str | os.PathLike[str]) -> None:
    own, told = getattr(network, "config", None), read_info(path).get("config")
    if (
        not isinstance(own, Sa2VAConfig)
        or not isinstance(told, Mapping)
        or not isinstance(told.get("grounding"), Mapping)
    ):
        return
    here, there = asdict(own.grounding), told["grounding"]
    odd = [
        f"grounding.{key} {there[key]} instead of {here[key]}"
        for key in here.keys() & there.keys()
        if np.any(np.not_equal(here[key], there[key]))
    ]
    if odd:
        _LOGGER.warning(
            "%s was trained with %s; to keep that, let network_def#config be \"$stored(@weights, 'config', @preset)\"",
            Path(path).name,
            ", ".join(sorted(odd)),
        )
