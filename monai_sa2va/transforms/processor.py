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
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, Transform
from transformers import PreTrainedTokenizerBase

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.transforms.chat import Control, Segments, encode_conversation
from monai_sa2va.transforms.grounding_image import GroundingImage
from monai_sa2va.transforms.markup import encode_question, picture_markup, region_markup
from monai_sa2va.transforms.regions import RegionTokens
from monai_sa2va.transforms.sentences import ANSWERS, answer_segments, check_prompt, parse_phrases
from monai_sa2va.transforms.source import file_name
from monai_sa2va.transforms.tiles import TileImage

__all__ = ["Sa2VAProcessor", "Sa2VAProcessorD", "Sa2VAProcessorDict", "Sa2VAProcessord"]


class Sa2VAProcessor(Transform):
    """Tiles for the MLLM, the square image for SAM2, and a conversation as token ids with labels.

    Args:
        config: the network's geometry, chat template and form of answers.
        tokenizer: as :func:`~monai_sa2va.data.tokenizer.load_tokenizer` gives it.
    """

    def __init__(self, config: Sa2VAConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer
        # real constants also where the network around is built on the meta device
        with torch.device("cpu"):
            self.tiles = TileImage(
                tile_size=config.vision.image_size,
                min_tiles=config.min_tiles,
                max_tiles=config.max_tiles,
                use_thumbnail=config.use_thumbnail,
            )
            self.frame = TileImage(tile_size=config.vision.image_size, max_tiles=1)
            self.regions = RegionTokens(round(config.tokens_per_tile**0.5))
            self.grounding_image = GroundingImage(
                size=config.grounding.image_size, round_constants_to_bf16=config.grounding.round_constants_to_bf16
            )
        self.image_token_id = int(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
        self.seg_token_id = int(tokenizer.convert_tokens_to_ids("[SEG]"))

    def image(self, picture: Any) -> dict[str, torch.Tensor]:
        """Preprocess one picture.

        Args:
            picture: (H, W, 3) uint8 array, PIL image, or (3, H, W) tensor with values 0 to 255.

        Returns:
            ``pixel_values`` (tiles, 3, t, t) and ``g_pixel_values`` (1, 3, S, S), float32.
        """
        return {
            Keys.PIXEL_VALUES: self.tiles(picture),
            Keys.GROUNDING_PIXEL_VALUES: self.grounding_image(picture).unsqueeze(0),
        }

    def clip(self, pictures: Sequence[Any]) -> torch.Tensor:
        """Frames as the language model sees them in a clip: each a single tile, whatever its shape.

        Args:
            pictures: each as for :meth:`image`.

        Returns:
            ``pixel_values`` (frames, 3, t, t), float32.
        """
        return torch.cat([self.frame(picture) for picture in pictures])

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
        pictures = picture_markup([n * self.config.tokens_per_tile for n in tiles]) + region_markup(regions)
        ids = encode_question(self.tokenizer, self.config.template, text, past_text, pictures)
        return torch.tensor(ids)

    def conversation(
        self, turns: Sequence[tuple[str, Segments | None]], n_tiles: int | Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Encode a conversation about one picture, or several.

        Args:
            turns: (question, answer) pairs, without image tokens; the first question is about the pictures. An answer
                of ``None`` leaves the turn open.
            n_tiles: tiles of the picture, the thumbnail counted; of several pictures a list.

        Returns:
            ``input_ids`` and ``labels``, (L,) int64.

        Raises:
            DataError: when there is no turn.
        """
        if not turns:
            raise DataError("the conversation has no turn; give at least one (question, answer) pair")
        tiles = [n_tiles] if isinstance(n_tiles, int) else n_tiles
        places = picture_markup([n * self.config.tokens_per_tile for n in tiles])
        asked: list[tuple[Segments, Segments | None]] = [((question,), answer) for question, answer in turns]
        asked[0] = ((Control(places), "\n" + turns[0][0]), turns[0][1])
        ids, labels = encode_conversation(self.tokenizer, self.config.template, asked)
        return {Keys.INPUT_IDS: torch.tensor(ids), Keys.LABELS: torch.tensor(labels)}

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
        sample.update(self.conversation([(check_prompt(text), answer)], len(sample[Keys.PIXEL_VALUES])))
        sample[Keys.NAMES] = names
        return sample

    def __call__(  # type: ignore[override]  # MONAI's own array transforms widen this signature, too
        self, picture: Any, turns: Sequence[tuple[str, Segments | None]]
    ) -> dict[str, Any]:
        """Preprocess a picture and a conversation about it (see :meth:`image` and :meth:`conversation`)."""
        sample: dict[str, Any] = dict(self.image(picture))
        sample.update(self.conversation(turns, len(sample[Keys.PIXEL_VALUES])))
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
        ConfigError: when ``mask_size`` is below 1.
    """

    def __init__(
        self,
        processor: Sa2VAProcessor,
        keys: str = Keys.IMAGE,
        mask_size: int | None = None,
        keep: Sequence[str] = (Keys.NAMES,),
    ) -> None:
        super().__init__(keys)
        if mask_size is not None and mask_size < 1:
            raise ConfigError(f"mask_size is {mask_size}; give a number of pixels of at least 1, or null for none")
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


def _source(image: Any, number: Any) -> str:
    name = file_name(image)
    return f"{name} slice {number}" if name and number is not None else name


def _resize_nearest(masks: torch.Tensor, side: int) -> torch.Tensor:
    if not len(masks):
        return masks.new_zeros((0, side, side))
    return F.interpolate(masks.unsqueeze(0).float(), size=(side, side), mode="nearest-exact")[0].to(masks.dtype)


Sa2VAProcessorD = Sa2VAProcessorDict = Sa2VAProcessord
