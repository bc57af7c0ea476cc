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

"""A base's identity: one hash over the values of its weights, whatever they are stored as."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

__all__ = ["fingerprint", "fingerprint_of_stored"]


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Hashes of weights, as they are and as rounded to bfloat16.

    A value counts, not how it is stored: weights in bfloat16 or float16, and the same ones widened to float32, have one
    hash.

    Args:
        tensors: by name, on any device; of any shapes and types.

    Returns:
        ``{"float32": ..., "bfloat16": ...}``, SHA-256 in 64 hexadecimal digits each; both are the same where all
        values fit bfloat16.
    """
    exact, rounded = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        head = f"{name}:{tuple(tensor.shape)}".encode()
        plain, half = _exact(tensor)
        digest = _digest(plain)
        exact.update(head + digest)
        rounded.update(head + (digest if half is plain else _digest(half)))
    return {"float32": exact.hexdigest(), "bfloat16": rounded.hexdigest()}


def fingerprint_of_stored(tensors: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """Which of a base's two hashes weights can be compared with, and theirs.

    Returns:
        ``"bfloat16"`` where all decimals are stored so, else ``"float32"``; and the hash.
    """
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    kind = "bfloat16" if floating == {torch.bfloat16} else "float32"
    return kind, fingerprint(tensors)[kind]


def _exact(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensor in the shortest type that holds all its values, and rounded to bfloat16: one object where equal."""
    tensor = tensor.detach()
    if not tensor.is_floating_point() or tensor.dtype == torch.bfloat16:
        return tensor, tensor
    half = tensor.to(torch.bfloat16)
    wide = tensor.to(torch.float32)
    return (half, half) if torch.equal(half.to(torch.float32), wide) else (wide, half)


def _digest(tensor: torch.Tensor) -> bytes:
    # one tensor at a time on the host: a large network is never there twice
    content = tensor.cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(f"{tensor.dtype}".encode() + content.numpy().data).digest()
