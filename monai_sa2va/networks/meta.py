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

"""Building a network on the meta device: its weights take no memory, its fixed tables are real all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["RealTables"]


class RealTables(TorchFunctionMode):
    """Lets a network be built on the meta device with real tables, as of its rotary positions.

    They are no weights: no checkpoint holds them, so nothing would fill them in later. Also, sam2's Hiera reads a
    linspace with ``.item()``, and its RoPEAttention moves its table to the first CUDA device there is, which is left
    out: its forward pass moves it again.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and args[1:2] == ("cuda",):
            return args[0]
        if func in (torch.linspace, torch.arange) and torch.get_default_device().type == "meta":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)
