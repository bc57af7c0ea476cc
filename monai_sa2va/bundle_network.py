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

"""The network that a bundle's ``inference.json`` describes, with its weights, and how its images are prepared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from monai_sa2va.bundles import find_bundle
from monai_sa2va.checkpoints.adapters import apply_adapter
from monai_sa2va.checkpoints.load import load_weights
from monai_sa2va.errors import ConfigError, Sa2VAError
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["BundleNetwork", "load_bundle"]


class BundleNetwork(NamedTuple):
    """What a bundle is good for, without its data and its engines.

    Attributes:
        network: with its weights, on the CPU.
        window: how grey values become 0 to 255.
        axis: how volumes are sliced.
    """

    network: Sa2VA
    window: Any
    axis: Any


def load_bundle(
    folder: str | os.PathLike[str] | None,
    checkpoint: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> BundleNetwork:
    """Build the network of a bundle's ``configs/inference.json`` and load its weights.

    Args:
        folder: as for :func:`~monai_sa2va.bundles.find_bundle`.
        checkpoint: file of weights in place of the config's ``checkpoint``.
        adapter: what a fine-tuning of these weights wrote, in place of the config's ``adapter``.
        overrides: values for other ids of the config.

    Raises:
        ConfigError: when the bundle, its config, or an id is missing, or ``network_def`` builds no Sa2VA.
        CheckpointError: when the weights are missing or don't fit, or the adapter is of other ones.
    """
    bundle, given = find_bundle(folder).path, dict(overrides or {})
    file = bundle / "configs" / "inference.json"
    if not file.is_file():
        raise ConfigError(f"{os.fspath(file)!r} is missing; name a bundle with an inference config")
    parser = ConfigParser()
    parser.read_config(str(file))
    for key in ("network_def", "checkpoint", *(() if adapter is None else ("adapter",)), *given):
        if key not in parser:
            raise ConfigError(f"{file.name} has no id {key!r}; known: {', '.join(sorted(parser.get()))}")
    parser.update({"bundle_root": str(bundle), **given})
    weights = bundle / _content(parser, "checkpoint") if checkpoint is None else Path(checkpoint)
    # the checkpoint says its geometry, window and axis to the other ids
    parser.update({"checkpoint": str(weights)})
    if adapter is not None:
        parser.update({"adapter": os.fspath(adapter)})
    elif "adapter" in parser:
        adapter = _content(parser, "adapter")
    network = _content(parser, "network_def")
    if not isinstance(network, Sa2VA):
        raise ConfigError(f"network_def of {file.name} builds a {type(network).__name__}; expected a Sa2VA")
    apply_adapter(load_weights(network, weights), adapter)
    window, axis = (_content(parser, key) if key in parser else "auto" for key in ("window", "axis"))
    return BundleNetwork(network, window, axis)


def _content(parser: ConfigParser, key: str) -> Any:
    """What an id of the config evaluates to; an error of ours comes as it was raised, out of MONAI's wrapping."""
    try:
        return parser.get_parsed_content(key)
    except RuntimeError as error:
        link: BaseException | None = error
        while link is not None and not isinstance(link, Sa2VAError):
            link = link.__cause__
        if link is None:
            raise
        raise link from link.__cause__
