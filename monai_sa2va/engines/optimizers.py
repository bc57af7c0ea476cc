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

"""AdamW by name, also those whose moments take less memory and come from packages that needn't be installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer

from monai_sa2va.errors import ConfigError

__all__ = ["KINDS", "adamw"]

KINDS: dict[str, tuple[str, str, str]] = {
    "adamw": ("torch", "torch.optim", "AdamW"),
    "adamw_8bit": ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    "paged_adamw": ("bitsandbytes", "bitsandbytes.optim", "PagedAdamW32bit"),
    "paged_adamw_8bit": ("bitsandbytes", "bitsandbytes.optim", "PagedAdamW8bit"),
    "adamw_8bit_torchao": ("torchao", "torchao.optim", "AdamW8bit"),
}
"""Kind -> package to install, module, class. 8-bit ones keep their two moments a parameter in a byte each; paged ones
move them to the host while the GPU's memory is short."""


def adamw(
    params: Iterable[torch.nn.Parameter],
    kind: str = "adamw",
    lr: float = 2e-5,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.05,
) -> Optimizer:
    """Build an AdamW of a kind.

    Args:
        params: what is trained.
        kind: of :data:`KINDS`; paging needs a CUDA device.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the denominator.
        weight_decay: decoupled.

    Raises:
        ConfigError: when there is no such kind, or its package is not installed or can't be used here.
    """
    if kind not in KINDS:
        raise ConfigError(f"optimizer_kind is {kind!r}; allowed: {', '.join(KINDS)}")
    package, module, name = KINDS[kind]
    try:
        made: Any = getattr(import_module(module), name)
    # a package for another CUDA raises errors of its own while it loads its libraries
    except Exception as error:
        raise ConfigError(
            f"optimizer_kind {kind} needs the package {package}, which can't be imported; pip install {package}, or "
            "take adamw"
        ) from error
    optimizer: Optimizer = made(list(params), lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
    return optimizer
