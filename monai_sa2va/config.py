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

"""The geometry of a Sa2VA: plain data, free of torch, from which the network and the transforms are built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from monai_sa2va.errors import ConfigError
from monai_sa2va.qwen_config import Qwen3VisionConfig, Qwen25VisionConfig, QwenVisionConfig

__all__ = ["GroundingConfig", "Sa2VAConfig", "TextConfig", "VisionConfig", "part_from_dict"]


@dataclass(frozen=True)
class VisionConfig:
    """InternViT, the MLLM's vision tower.

    Attributes:
        image_size: side of one square tile, pixels.
        patch_size: side of one patch, pixels.
        norm_type: ``"layer_norm"`` or ``"rms_norm"`` (InternViT-6B).
        initializer_range: standard deviation of random initial weights.
        qk_norm: whether queries and keys are normalised (InternViT-6B).

    Raises:
        ConfigError: when there is no such norm.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: int = 448
    patch_size: int = 14
    norm_type: str = "layer_norm"
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_norm_eps: float = 1e-6
    layer_scale_init: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.norm_type not in ("layer_norm", "rms_norm"):
            raise ConfigError(f"vision.norm_type is {self.norm_type!r}; allowed: layer_norm, rms_norm")


@dataclass(frozen=True)
class TextConfig:
    """The language model, a decoder-only transformer of transformers' own ``model_type``.

    Attributes:
        model_type: ``"qwen2"``, or ``"llama"`` for InternLM2 weights; ``"qwen2_5_vl_text"`` and ``"qwen3_vl_text"`` in
            Qwen's own families.
        vocab_size: the tokenizer's length, added tokens included.
        initializer_range: standard deviation of random initial weights; narrow models learn sooner from larger ones.
        rope_scaling: as transformers names it, e.g. ``{"rope_type": "dynamic", "factor": 2.0}``; Qwen's families need
            an ``"mrope_section"``.
        head_dim: width of an attention head where it isn't ``hidden_size / num_attention_heads``; Qwen3-VL only.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int = 32768
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    rope_scaling: dict[str, Any] | None = None
    head_dim: int | None = None


# of SAM2, each 1 or more; beyond the largest it is a slip of the pen, which would fill the memory first
_GROUNDING_SIZES = (
    *("image_size", "hidden_dim", "mem_dim", "embed_dim", "num_heads", "feedforward_dim", "iou_head_hidden_dim"),
    *("memory_layers", "memory_feedforward_dim"),
)
_LARGEST_SIZE = 65536


@dataclass(frozen=True)
class GroundingConfig:
    """SAM2's geometry; the defaults are hiera-L, which every official Sa2VA checkpoint has.

    Attributes:
        image_size: side S of the square image SAM2 sees, pixels; mask logits have S/4.
        hidden_dim: width of the neck and of the mask decoder, and of the language token.
        mem_dim: width of a memory.
        feedforward_dim: width of the feed-forward layers of the mask decoder.
        round_constants_to_bf16: whether mean and standard deviation of the image are rounded to bfloat16 first,
            as the reference's inference does.
        click_mark: how wide a mark each corrective click leaves in the mask that SAM2 gets back with it: standard
            deviation in pixels of that mask (S/4), 0.1 to 1000. SAM2 itself and the official checkpoints have none, 0.

    Raises:
        ConfigError: when a number isn't allowed, or sizes don't divide each other as SAM2 needs it.
    """

    image_size: int = 1024
    hidden_dim: int = 256
    mem_dim: int = 64
    embed_dim: int = 144
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    global_att_blocks: tuple[int, ...] = (23, 33, 43)
    window_spec: tuple[int, ...] = (8, 4, 16, 8)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)
    feedforward_dim: int = 2048
    iou_head_hidden_dim: int = 256
    memory_layers: int = 4
    memory_feedforward_dim: int = 2048
    round_constants_to_bf16: bool = True
    click_mark: float = 0.0

    def __post_init__(self) -> None:
        for name in _GROUNDING_SIZES:
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST_SIZE:
                raise ConfigError(f"grounding.{name} is {size!r}; give a whole number from 1 to {_LARGEST_SIZE}")
        for name in ("stages", "window_spec", "window_pos_embed_bkg_spatial_size", "global_att_blocks"):
            numbers, least = getattr(self, name), 0 if name == "global_att_blocks" else 1
            whole = isinstance(numbers, tuple) and all(type(n) is int and least <= n <= _LARGEST_SIZE for n in numbers)
            if not whole:
                raise ConfigError(f"grounding.{name} is {numbers!r}; give whole numbers from {least} on")
        for name, divisor in (("image_size", 32), ("hidden_dim", 8), ("mem_dim", 4)):
            if getattr(self, name) % divisor:
                raise ConfigError(f"grounding.{name} {getattr(self, name)} is no positive multiple of {divisor}")
        for name, part in (("hidden_dim", "mem_dim"), ("embed_dim", "num_heads")):
            # a pointer is cut into memories, a width into heads
            if getattr(self, name) % getattr(self, part):
                raise ConfigError(
                    f"grounding.{name} {getattr(self, name)} is no multiple of grounding.{part}, {getattr(self, part)}"
                )
        self._check_blocks()
        mark: object = self.click_mark
        if not isinstance(mark, float | int) or isinstance(mark, bool) or not (mark == 0 or 0.1 <= mark <= 1000):
            raise ConfigError(f"grounding.click_mark is {mark!r}; give 0 for none, or a number from 0.1 to 1000")

    def _check_blocks(self) -> None:
        blocks, openings = sum(self.stages), {sum(self.stages[:i]) for i in range(len(self.stages))}
        if not len(self.stages) == len(self.window_spec) == 4:
            raise ConfigError("grounding.stages and grounding.window_spec need four numbers each, one a stage")
        if len(self.window_pos_embed_bkg_spatial_size) != 2:
            raise ConfigError("grounding.window_pos_embed_bkg_spatial_size needs two numbers, rows and columns")
        for block in self.global_att_blocks:
            # SAM2's Hiera pools in windows there
            if not 0 <= block < blocks or block in openings:
                raise ConfigError(
                    f"grounding.global_att_blocks has {block}; it must be one of {blocks} blocks, "
                    f"but none that opens a stage ({', '.join(map(str, sorted(openings)))})"
                )

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask logits: a quarter of :attr:`image_size`, pixels."""
        return self.image_size // 4


_PARTS: dict[str, type] = {"text": TextConfig, "grounding": GroundingConfig}

_VISION: dict[str, type] = {
    "internvl": VisionConfig,
    "qwen2_5_vl": Qwen25VisionConfig,
    "qwen3_vl": Qwen3VisionConfig,
}


@dataclass(frozen=True)
class Sa2VAConfig:
    """Everything that fixes a Sa2VA's parameters, its preprocessing and the form of its answers.

    Attributes:
        name: the preset's name, or the user's own.
        family: of MLLM: ``"internvl"``, ``"qwen2_5_vl"`` or ``"qwen3_vl"``; it decides the class of ``vision``.
        downsample_ratio: InternVL's pixel shuffle: side of a tile in tokens over its side in patches.
        projector_hidden: width of ``text_hidden_fcs``' hidden layer; ``None`` is the official shape.
        template: name of the chat template, e.g. ``"qwen_chat"``.
        answer_form: ``"named"`` answers "Sure, <p>vessels</p> [SEG].", ``"plain"`` the official "Sure, [SEG].".
        tokenizer: ``"bytes"`` for the tokenizer made in code, else the folder of a Hugging Face tokenizer.
        seg_state: ``"post_norm"`` or ``"pre_norm"``: the [SEG] state after or before the LLM's final norm.
        min_tiles: fewest tiles of an image; this and the next two are InternVL's alone.
        max_tiles: most tiles of an image, the thumbnail not counted.
        use_thumbnail: whether an image of several tiles gets one more of the whole.
        min_pixels: least pixels of an image after resizing; this and the next are Qwen's alone, and by default the
            reference's: 512 to 2048 squares of 28.
        max_pixels: most pixels of an image after resizing.
        presence_threshold: a mask whose presence (0 to 1) is lower is emptied; ``None`` leaves all masks alone, as for
            official checkpoints.
        presence_scale: presence is the sigmoid of this times SAM2's object score, plus ``presence_bias``; above 0.
        presence_bias: see there.
        origin: of weights that came from an official checkpoint, what giving them back needs: ``config``, its
            config.json, and ``layout``, the spelling of its keys.

    Raises:
        ConfigError: when a value isn't allowed, or sizes don't divide each other as the network needs it.
    """

    name: str
    vision: VisionConfig | Qwen25VisionConfig | Qwen3VisionConfig
    text: TextConfig
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    family: str = "internvl"
    downsample_ratio: float = 0.5
    projector_hidden: int | None = None
    template: str = "qwen_chat"
    answer_form: str = "plain"
    tokenizer: str = "bytes"
    seg_state: str = "post_norm"
    min_tiles: int = 1
    max_tiles: int = 12
    use_thumbnail: bool = True
    min_pixels: int = 512 * 28 * 28
    max_pixels: int = 2048 * 28 * 28
    presence_threshold: float | None = None
    presence_scale: float = 1.0
    presence_bias: float = 0.0
    origin: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.family not in _VISION:
            raise ConfigError(f"family is {self.family!r}; allowed: {', '.join(_VISION)}")
        for key, part in _parts(self.family).items():
            if not isinstance(getattr(self, key), part):
                raise ConfigError(f"{key} is a {type(getattr(self, key)).__name__}; give a {part.__name__}")
        text = self.text
        for key, size, divisor in (
            *self._mllm_sizes(),
            ("text.num_attention_heads", text.num_attention_heads, text.num_key_value_heads),
        ):
            if size <= 0 or divisor <= 0 or size % divisor:
                raise ConfigError(f"{key} {size:g} is no positive multiple of {divisor:g}")
        if self.presence_threshold is not None and not 0 <= self.presence_threshold <= 1:
            raise ConfigError(f"presence_threshold is {self.presence_threshold}; give 0 to 1, or null for none")
        if not (0 < self.presence_scale < math.inf and math.isfinite(self.presence_bias)):
            raise ConfigError(
                f"presence_scale is {self.presence_scale} and presence_bias {self.presence_bias}; give finite numbers, "
                "the scale above 0"
            )
        for key, value, allowed in (
            ("answer_form", self.answer_form, ("named", "plain")),
            ("seg_state", self.seg_state, ("post_norm", "pre_norm")),
        ):
            if value not in allowed:
                raise ConfigError(f"{key} is {value!r}; allowed: {', '.join(allowed)}")

    def _mllm_sizes(self) -> Iterator[tuple[str, float, float]]:
        """Name, value and divisor of the MLLM's sizes that have to divide."""
        vision, text = self.vision, self.text
        if isinstance(vision, VisionConfig):
            patches = vision.image_size / vision.patch_size
            yield "vision.image_size", vision.image_size, vision.patch_size
            downsample = 1 / self.downsample_ratio if self.downsample_ratio > 0 else 0
            yield "vision.image_size / patch_size", patches, downsample
            yield "vision.hidden_size", vision.hidden_size, vision.num_attention_heads
        if text.head_dim is None:
            yield "text.hidden_size", text.hidden_size, text.num_attention_heads
        elif self.family != "qwen3_vl":
            raise ConfigError(f"text.head_dim is {text.head_dim}, which {self.family} doesn't have; leave it out")
        if isinstance(vision, QwenVisionConfig):
            if not vision.token_side**2 <= self.min_pixels <= self.max_pixels:
                raise ConfigError(
                    f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; "
                    f"give {vision.token_side**2} or more, and not less for the second"
                )
            pairs = (text.head_dim or text.hidden_size // text.num_attention_heads) // 2
            sections = (text.rope_scaling or {}).get("mrope_section", ())
            if len(sections) != 3 or sum(sections) != pairs:
                raise ConfigError(
                    f"text.rope_scaling has the mrope_section {list(sections)}; give three numbers that add up to "
                    f"{pairs}, half the width of a head"
                )

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that one tile becomes: (tile / patch * downsample_ratio) squared.

        Qwen's pictures have no tiles: there, each token counts as one.
        """
        if isinstance(self.vision, QwenVisionConfig):
            return 1
        side = self.vision.image_size // self.vision.patch_size
        return int((side * self.downsample_ratio) ** 2)

    @property
    def pictures_first(self) -> bool:
        """Whether pictures stand in front of a question, wherever it names them, as in Qwen's families.

        There, as in the reference, a [SEG] that the question spells out has a mask, too.
        """
        return isinstance(self.vision, QwenVisionConfig)

    @property
    def rows_per_tile(self) -> int:
        """Rows of ``pixel_values`` that make one tile: one of InternVL's, and of Qwen's the patches of a token."""
        return self.vision.merge_size**2 if isinstance(self.vision, QwenVisionConfig) else 1

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of plain values, the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sa2VAConfig:
        """Build a configuration from nested plain values (as read from JSON).

        Args:
            values: as :meth:`to_dict` gives them; absent optional keys take their defaults.

        Raises:
            ConfigError: when a key is unknown or a required one is missing.
        """
        values = dict(values)
        for key, part in _parts(values.get("family", "internvl")).items():
            if isinstance(values.get(key), dict):
                values[key] = _build(part, values[key], prefix=f"{key}.")
        result: Sa2VAConfig = _build(cls, values, prefix="")
        return result

    def differing(self, values: Mapping[str, Any]) -> list[str]:
        """Keys in which a stored configuration is another; what it lacks, as of an earlier version, is the default.

        Args:
            values: as :meth:`to_dict` gives them.

        Raises:
            ConfigError: as :meth:`from_dict`.
        """
        other = self.from_dict(dict(values))
        return sorted(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


def _parts(family: Any) -> dict[str, type]:
    """The class of each part; one of an unknown family is refused by :class:`Sa2VAConfig`."""
    return {"vision": _VISION.get(str(family), VisionConfig), **_PARTS}


def part_from_dict(part: type, values: dict[str, Any]) -> Any:
    """One part of a configuration, such as :class:`GroundingConfig`, from plain values as read from JSON.

    Raises:
        ConfigError: when a key is unknown, a value of the wrong type, or a required key is missing.
    """
    return _build(part, values, prefix="")


# of the fields that are checked when read; annotations are strings here
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}


def _build(cls: Any, values: dict[str, Any], prefix: str) -> Any:
    known = {f.name: _TYPES.get(str(f.type)) for f in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown configuration key {prefix}{unknown[0]}; known: {', '.join(sorted(known))}")
    for key, value in values.items():
        types = known[key]
        if types is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise ConfigError(f"{prefix}{key} is {value!r}; give {types[0].__name__}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ConfigError(f"incomplete configuration {prefix.rstrip('.') or cls.__name__}: {error}") from error
