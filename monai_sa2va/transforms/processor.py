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

"""The processor: pictures and conversations in, the network's input tensors out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, Transform
from transformers import PreTrainedTokenizerBase

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.tokenizer import picture_tokens
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.qwen_config import QwenVisionConfig
from monai_sa2va.transforms.chat import Control, Segments, encode_conversation
from monai_sa2va.transforms.grounding_image import GroundingImage
from monai_sa2va.transforms.markup import encode_question, picture_markup, region_markup
from monai_sa2va.transforms.patches import CLIP_MEAN, CLIP_STD, PatchImaged
from monai_sa2va.transforms.regions import RegionTokens
from monai_sa2va.transforms.sentences import ANSWERS, answer_segments, check_prompt, parse_phrases
from monai_sa2va.transforms.source import file_name
from monai_sa2va.transforms.tiles import TileImaged

__all__ = ["Sa2VAProcessor", "Sa2VAProcessorD", "Sa2VAProcessorDict", "Sa2VAProcessord"]


class Sa2VAProcessor(Transform):
    """Tiles or patches for the MLLM, the square image for SAM2, and a conversation as token ids with labels.

    Args:
        config: the network's geometry, chat template and form of answers.
        tokenizer: as :func:`~monai_sa2va.data.tokenizer.load_tokenizer` gives it.
    """

    def __init__(self, config: Sa2VAConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer
        # real constants also where the network around is built on the meta device
        with torch.device("cpu"):
            self.view = _mllm_view(config)
            self.frame_view = _mllm_view(replace(config, min_tiles=1, max_tiles=1))
            self.regions = RegionTokens(round(config.tokens_per_tile**0.5))
            self.grounding_image = GroundingImage(
                size=config.grounding.image_size, round_constants_to_bf16=config.grounding.round_constants_to_bf16
            )
        self.picture_tokens = picture_tokens(config.family)
        # the reference parts InternVL's pictures and text by line, and Qwen's not at all
        self._break = "" if config.pictures_first else "\n"
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(self.picture_tokens[-1]))
        self.seg_token_id = int(tokenizer.convert_tokens_to_ids("[SEG]"))

    def image(self, picture: Any) -> dict[str, torch.Tensor]:
        """Preprocess one picture.

        Args:
            picture: (H, W, 3) uint8 array, PIL image, or (3, H, W) tensor with values 0 to 255.

        Returns:
            ``pixel_values`` (tiles, 3, t, t) and ``g_pixel_values`` (1, 3, S, S), float32. Of Qwen's families
            ``pixel_values`` is (patches, 3 * T * p * p), and ``image_grid_thw`` (1, 3) int64 says how they lie.
        """
        sample: dict[Any, Any] = self.view({Keys.IMAGE: picture})
        del sample[Keys.IMAGE]
        return {**sample, Keys.GROUNDING_PIXEL_VALUES: self.grounding_image(picture).unsqueeze(0)}

    def n_tiles(self, sample: Mapping[str, Any]) -> int:
        """Tiles of a picture that :meth:`image` preprocessed, as :meth:`conversation` takes them."""
        return len(sample[Keys.PIXEL_VALUES]) // self.config.rows_per_tile

    def glance(self, pictures: Sequence[Any]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Preprocess what the language model sees of the frames of a cine: one tile each, whatever their shape.

        Args:
            pictures: the frames, each as for :meth:`image`.

        Returns:
            ``pixel_values`` and what belongs to it, as of :meth:`image`, frame after frame; and the tiles of each.
        """
        samples: list[dict[Any, Any]] = [self.frame_view({Keys.IMAGE: picture}) for picture in pictures]
        keys = [key for key in samples[0] if key != Keys.IMAGE]
        return {key: torch.cat([sample[key] for sample in samples]) for key in keys}, [*map(self.n_tiles, samples)]

    def question(
        self, text: str, past_text: str = "", tiles: Sequence[int] = (), regions: Sequence[int] = ()
    ) -> torch.Tensor:
        """Encode a question in the reference's markup, its turn left open: see :func:`encode_question`.

        Args:
            text: the question; ``<image>`` stands where the pictures do.
            past_text: turns before it, with all their markup.
            tiles: of each picture, the thumbnail counted.
            regions: image tokens of each region that is pointed at.

        Returns:
            Ids, (L,) int64.

        Raises:
            PromptError: as for :func:`~monai_sa2va.transforms.markup.encode_question`.
        """
        pictures = self._places(tiles) + region_markup(regions, self.picture_tokens[-1])
        ids = encode_question(
            self.tokenizer,
            self.config.template,
            text,
            past_text,
            pictures,
            fills=self.picture_tokens[-1],
            pictures_first=self.config.pictures_first,
        )
        return torch.tensor(ids)

    def conversation(
        self, turns: Sequence[tuple[str, Segments | None]], n_tiles: int | Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Encode a conversation about one picture, or several.

        Args:
            turns: (question, answer) pairs, without image tokens; the first question is about the pictures. An answer
                of ``None`` leaves the turn open.
            n_tiles: tiles of the picture, the thumbnail counted, or of each picture; each is ``tokens_per_tile`` of the
                configuration long.

        Returns:
            ``input_ids`` and ``labels``, (L,) int64.

        Raises:
            DataError: when there is no turn.
        """
        if not turns:
            raise DataError("the conversation has no turn; give at least one (question, answer) pair")
        places = self._places([n_tiles] if isinstance(n_tiles, int) else n_tiles)
        asked: list[tuple[Segments, Segments | None]] = [((question,), answer) for question, answer in turns]
        asked[0] = ((Control(places), self._break + turns[0][0]), turns[0][1])
        ids, labels = encode_conversation(self.tokenizer, self.config.template, asked)
        return {Keys.INPUT_IDS: torch.tensor(ids), Keys.LABELS: torch.tensor(labels)}

    def _places(self, tiles: Sequence[int]) -> str:
        each = self.config.tokens_per_tile
        return self._break.join(picture_markup(number * each, self.picture_tokens) for number in tiles)

    def answer(self, text: str, phrases: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
        """The known answer to a prompt, in the form of the checkpoint.

        Args:
            text: the user's prompt.
            phrases: the structures it names, where they were read otherwise than by
                :func:`~monai_sa2va.transforms.sentences.parse_phrases`.

        Returns:
            The answer's pieces, one [SEG] an object, and the objects' names.
        """
        found = parse_phrases(text) if phrases is None else list(phrases)
        named = self.config.answer_form == "named" and bool(found)
        names = found or [check_prompt(text)]
        return answer_segments(names, ANSWERS[0], named=named), names

    def prompt(self, picture: Any, text: str) -> dict[str, Any]:
        """Preprocess a picture and a prompt with its known answer.

        Returns:
            The entries of :meth:`image`, ``input_ids``, ``labels`` and ``names``.
        """
        sample: dict[str, Any] = dict(self.image(picture))
        answer, names = self.answer(text)
        sample.update(self.conversation([(check_prompt(text), answer)], self.n_tiles(sample)))
        sample[Keys.NAMES] = names
        return sample

    def __call__(  # type: ignore[override]  # MONAI's own array transforms widen this signature, too
        self, picture: Any, turns: Sequence[tuple[str, Segments | None]]
    ) -> dict[str, Any]:
        """Preprocess a picture and a conversation about it (see :meth:`image` and :meth:`conversation`)."""
        sample: dict[str, Any] = dict(self.image(picture))
        sample.update(self.conversation(turns, self.n_tiles(sample)))
        return sample


class Sa2VAProcessord(MapTransform):
    """Dictionary form: the entry's picture and turns become network inputs, its masks get the training size.

    Args:
        processor: of the network that is trained: ``$@network_def.processor`` in a configuration.
        keys: of the picture, (3, H, W) with values 0 to 255.
        mask_size: side that ground-truth masks are resized to (nearest), pixels; ``None`` keeps their size. The
            official recipe takes SAM2's S/4.
        keep: other entries that the batch keeps.

    Raises:
        ConfigError: when ``mask_size`` is no whole number of at least 1.
    """

    def __init__(
        self,
        processor: Sa2VAProcessor,
        keys: str = Keys.IMAGE,
        mask_size: int | None = None,
        keep: Sequence[str] = (Keys.NAMES,),
    ) -> None:
        super().__init__(keys)
        if mask_size is not None and (not isinstance(mask_size, int) or isinstance(mask_size, bool) or mask_size < 1):
            raise ConfigError(f"mask_size is {mask_size!r}; give a number of pixels of at least 1, or null for none")
        self.processor, self.mask_size, self.keep = processor, mask_size, tuple(keep)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn an entry with ``image``, ``turns`` and ``gt_masks`` into network inputs; ``source`` names the file.

        Raises:
            DataError: when the answers don't hold one [SEG] a mask.
        """
        sample: dict[Any, Any] = {**self.processor(data[self.keys[0]], data[Keys.TURNS])}
        segs = int((sample[Keys.INPUT_IDS] == self.processor.seg_token_id).sum())
        masks = torch.as_tensor(np.asarray(data[Keys.MASKS])).to(torch.uint8)
        if masks.ndim != 3 or len(masks) != segs:
            raise DataError(f"gt_masks has shape {tuple(masks.shape)}, the answers hold {segs} [SEG]")
        sample[Keys.MASKS] = self.sized(masks)
        sample[Keys.FRAMES_PER_BATCH] = 1
        sample[Keys.SOURCE] = _source(data[self.keys[0]], data.get(Keys.SLICE))
        sample.update({key: data[key] for key in self.keep if key in data})
        return sample

    def sized(self, masks: torch.Tensor) -> torch.Tensor:
        """Masks (N, H, W) at the training size."""
        return masks if self.mask_size is None else _resize_nearest(masks, self.mask_size)


def _mllm_view(config: Sa2VAConfig) -> TileImaged | PatchImaged:
    """What the family's MLLM sees of a picture."""
    vision = config.vision
    if not isinstance(vision, QwenVisionConfig):
        return TileImaged(
            tile_size=vision.image_size,
            min_tiles=config.min_tiles,
            max_tiles=config.max_tiles,
            use_thumbnail=config.use_thumbnail,
        )
    half = (0.5, 0.5, 0.5)
    mean, std = (CLIP_MEAN, CLIP_STD) if config.family == "qwen2_5_vl" else (half, half)
    return PatchImaged(
        patch_size=vision.patch_size,
        merge_size=vision.merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        mean=mean,
        std=std,
    )


def _source(image: Any, number: Any) -> str:
    name = file_name(image)
    return f"{name} slice {number}" if name and number is not None else name


def _resize_nearest(masks: torch.Tensor, side: int) -> torch.Tensor:
    if not len(masks):
        return masks.new_zeros((0, side, side))
    return F.interpolate(masks.unsqueeze(0).float(), size=(side, side), mode="nearest-exact")[0].to(masks.dtype)


Sa2VAProcessorD = Sa2VAProcessorDict = Sa2VAProcessord
