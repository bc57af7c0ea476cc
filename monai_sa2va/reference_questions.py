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

"""Questions as users of the reference ask them: one image, several, or a video, with text in the reference's markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.inferers.first_frames import FirstFramesInferer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.pictures import PictureReader

__all__ = ["ReferenceQuestions"]


class ReferenceQuestions:
    """Asks as the reference's ``predict_forward`` does; :meth:`Segmenter.predict_forward
    <monai_sa2va.predictor.Segmenter.predict_forward>` is its door.

    Args:
        network: with its weights.
        inferer: sees and draws as the reference does.
        reader: of images and videos.
    """  # noqa: D205

    def __init__(self, network: Sa2VA, inferer: FirstFramesInferer, reader: PictureReader) -> None:
        self.network, self.inferer, self.reader = network, inferer, reader

    def __call__(
        self,
        image: Any,
        video: Any,
        text: str | Sequence[str] | None,
        past_text: str | Sequence[str],
        mask_prompts: Sequence[Any] | None,
        tokenizers: Sequence[Any],
        answer: str | None,
    ) -> Any:
        """Answer one question, or one for each of several images.

        Args:
            image: as for :meth:`~monai_sa2va.predictor.Segmenter.predict_forward`, like the next four.
            video: frames.
            text: the question.
            past_text: the turns before.
            mask_prompts: regions.
            tokenizers: what a caller brings; ``None`` is fine, another than the network's is refused.
            answer: what is answered, where it is known.

        Returns:
            The reference's dictionary, or a list of them.

        Raises:
            ConfigError: when a tokenizer is not the network's.
            DataError: when an image or a frame can't be used.
            PromptError: when the question can't be asked so, or regions don't fit the image.
        """
        for given in tokenizers:
            _check_tokenizer(given, self.network.tokenizer)
        if image is not None and video is not None:
            raise PromptError("image and video are both given; ask about one of them")
        if not isinstance(image, (list, tuple)):
            return self._one(image, video, text, past_text, mask_prompts, answer)
        if any(each is None for each in image):
            raise DataError("the list of images holds None; give pictures, or ask without image")
        texts, pasts, regions = (
            _spread(value, len(image), name)
            for name, value in (("text", text), ("past_text", past_text), ("mask_prompts", mask_prompts))
        )
        return [
            self._one(each, None, question, past, None if masks is None else [masks], answer)
            for each, question, past, masks in zip(image, texts, pasts, regions, strict=True)
        ]

    def _one(
        self, image: Any, video: Any, text: Any, past_text: Any, mask_prompts: Sequence[Any] | None, answer: str | None
    ) -> dict[str, Any]:
        if mask_prompts is not None and not hasattr(mask_prompts, "__len__"):
            raise PromptError(f"mask_prompts is a {type(mask_prompts).__name__}; give a list with one (n, H, W) array")
        if mask_prompts is not None and len(mask_prompts) != 1:
            raise PromptError(f"mask_prompts has {len(mask_prompts)} entries; give a list with one (n, H, W) array")
        pictures: Sequence[torch.Tensor] = [] if image is None else [self.reader.picture(image)]
        found = self.inferer.predict(
            pictures if video is None else self.reader.frames(video),
            self.network,
            text,
            past_text,
            None if mask_prompts is None else mask_prompts[0],
            clip=video is not None,
            answer=answer,
        )
        masks = [torch.stack(frames).numpy() for frames in zip(*(result.masks for result in found.frames), strict=True)]
        return {"prediction": found.text, "prediction_masks": masks}


def _check_tokenizer(tokenizer: Any, own: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that is not the network's.

    Args:
        tokenizer: what a caller gave; ``None`` is fine.
        own: the network's.

    Raises:
        ConfigError: when the two differ in their size or in the id of [SEG].
    """
    if tokenizer is None or tokenizer is own:
        return
    if not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise ConfigError(f"tokenizer is a {type(tokenizer).__name__}; leave it out, the network brings its own")
    given, known = ((len(one), one.convert_tokens_to_ids("[SEG]")) for one in (tokenizer, own))
    if given != known:
        raise ConfigError(
            f"the tokenizer has {given[0]} tokens, [SEG] being {given[1]}; the network's has {known[0]}, [SEG] being "
            f"{known[1]}: leave it out, the network brings its own"
        )


def _spread(value: Any, number: int, name: str) -> list[Any]:
    """One value for each of several images: a list is theirs, a text is for all.

    Args:
        value: a text, ``None``, or a list.
        number: of images.
        name: what error messages call it.

    Raises:
        PromptError: when the list has not one entry an image.
    """
    if value is None or isinstance(value, str):
        return [value] * number
    if len(value) != number:
        raise PromptError(f"{name} has {len(value)} entries for {number} images; give one an image")
    return list(value)
