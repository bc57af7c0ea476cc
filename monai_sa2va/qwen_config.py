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
"""The geometry of Qwen's vision towers, which take pictures of any shape as patches: plain data, free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from monai_sa2va.errors import ConfigError

__all__ = ["Qwen3VisionConfig", "Qwen25VisionConfig", "QwenVisionConfig"]


@dataclass(frozen=True)
class QwenVisionConfig:
    """What the vision towers of Qwen2.5-VL and Qwen3-VL have in common.

    Attributes:
        patch_size: side of one patch, pixels.
        merge_size: side of the square of patches that one token of the language model stands for.
        temporal_patch_size: frames of one patch; a picture is repeated as often.
        initializer_range: standard deviation of random initial weights.

    Raises:
        ConfigError: when sizes don't divide each other as the tower needs it.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for name in ("num_attention_heads", "patch_size", "merge_size", "temporal_patch_size"):
            _check_multiple(name, getattr(self, name), 1)
        # a head turns by row and by column, with a sine and a cosine each
        _check_multiple("hidden_size", self.hidden_size, 4 * self.num_attention_heads)

    @property
    def token_side(self) -> int:
        """Side of the square of a picture that one token of the language model stands for, pixels."""
        return self.patch_size * self.merge_size

    def _check_layers(self, name: str) -> None:
        for layer in getattr(self, name):
            if not 0 <= layer < self.num_hidden_layers:
                raise ConfigError(
                    f"vision.{name} has {layer}; there are {self.num_hidden_layers} layers, counted from 0"
                )


@dataclass(frozen=True)
class Qwen25VisionConfig(QwenVisionConfig):
    """Qwen2.5-VL's vision tower: attention in windows, and in some layers over the whole picture.

    Attributes:
        window_size: side of a window, pixels.
        full_attention_layers: those with attention over the whole picture, counted from 0.

    Raises:
        ConfigError: when sizes don't divide each other, or there is no such layer.
    """

    window_size: int = 112
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_multiple("window_size", self.window_size, self.token_side)
        self._check_layers("full_attention_layers")


@dataclass(frozen=True)
class Qwen3VisionConfig(QwenVisionConfig):
    """Qwen3-VL's vision tower, whose middle layers are heard by the language model's first ones (deepstack).

    Attributes:
        patch_size: side of one patch, pixels.
        num_position_embeddings: learnt positions, a square grid that is stretched over each picture.
        deepstack_layers: whose features are added after the language model's layers 0, 1 and so on, counted from 0.

    Raises:
        ConfigError: when sizes don't fit each other, or there is no such layer.
    """

    patch_size: int = 16
    num_position_embeddings: int = 2304
    deepstack_layers: tuple[int, ...] = (5, 11, 17)

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isqrt(max(self.num_position_embeddings, 0)) ** 2 != self.num_position_embeddings or (
            self.num_position_embeddings < 1
        ):
            raise ConfigError(
                f"vision.num_position_embeddings is {self.num_position_embeddings}; give a square number, as 2304"
            )
        self._check_layers("deepstack_layers")


def _check_multiple(name: str, value: int, divisor: int) -> None:
    if value <= 0 or value % divisor:
        raise ConfigError(f"vision.{name} {value} is no positive multiple of {divisor}")
