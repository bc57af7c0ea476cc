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

"""What the generators hold that a whole process shares, as plain values and tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """States of the generators of Python, numpy, torch and, where there are GPUs, CUDA."""
    version, numbers, gauss = random.getstate()
    shared = np.random.get_state(legacy=False)
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": {
            "key": torch.from_numpy(shared["state"]["key"].astype(np.int64)),
            "pos": int(shared["state"]["pos"]),
            "has_gauss": int(shared["has_gauss"]),
            "gauss": float(shared["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to what :func:`random_state` gave; CUDA's only where there are as many GPUs."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    shared = state["numpy"]
    key = shared["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, shared["pos"], shared["has_gauss"], shared["gauss"]))
    torch.set_rng_state(state["torch"])
    if len(state.get("cuda", [])) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
