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

"""One picture, any number of prompts: encoded once, answered in batched passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.inferers.presence import Presence
from monai_sa2va.inferers.sliding_window import SeenLogits, SlidingWindows
from monai_sa2va.inferers.steps import (
    answer_tokens,
    draw_objects,
    inferring,
    name_objects,
    picture_maps,
    picture_tokens,
    tell_objects,
)
from monai_sa2va.inferers.tracking import full_size_masks
from monai_sa2va.networks.chat import Reply, check_max_new_tokens, generate_reply
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.picture import to_picture
from monai_sa2va.transforms.postprocess import upsample_mask_logits
from monai_sa2va.transforms.sentences import check_prompt

__all__ = ["MODES", "ImageInferer", "ImageResult", "check_mode", "check_prompts"]

MODES = ("segment", "chat")
"""How answers come about: known beforehand, or generated."""


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What the network says of one picture.

    Attributes:
        masks: (N, H, W) bool on the CPU, one an object, by prompt and then in the answer's order.
        names: of the N objects.
        prompt_indices: which prompt each of the N objects belongs to.
        presence: (N,) float32, 0 to 1: how likely the object is there, SAM2's object score calibrated as the
            configuration says.
        iou_scores: (N,) float32, 0 to 1: the IoU that SAM2 predicts for its mask.
        answers: the answer to each prompt.
        phrases: the structures that each prompt was found to name; given back to :class:`ImageInferer` they spare the
            other slices of a volume the finding, and keep their objects the same.
        replies: in chat the reply to each prompt, of the same use; else empty.
        presence_threshold: presence below which masks were emptied; ``None`` for never.
        language: (N, C), what the language model told SAM2 of each object in this picture, on the network's device;
            ``None`` where objects were drawn otherwise.
    """

    masks: torch.Tensor
    names: list[str]
    prompt_indices: list[int]
    presence: torch.Tensor
    iou_scores: torch.Tensor
    answers: list[str]
    phrases: list[list[str]]
    replies: list[Reply] = field(default_factory=list)
    presence_threshold: float | None = None
    language: torch.Tensor | None = None


class ImageInferer(Inferer):
    """Segments one picture by sentences.

    The picture is encoded once. Each prompt and its known answer, one [SEG] an object, make one row of a batch; a
    sentence that names nothing by a common form is read by the language model first, where the checkpoint's answers
    name their objects. In chat the language model writes each answer itself
    (:func:`~monai_sa2va.networks.chat.generate_reply`), with as many objects as it likes, or none. Masks come from
    logits that two bilinear steps bring to the picture's size, at logit > 0; below the presence threshold they are
    emptied.

    Args:
        amp: autocast to bfloat16 on the network's device; ``False`` leaves an outer autocast as it is.
        max_prompts: prompts of one pass; less needs less memory.
        presence_threshold: presence (0 to 1) below which a mask is emptied, ``None`` for never; ``"stored"`` takes
            that of the network's configuration.
        max_new_tokens: most tokens of an answer in chat.
        roi_size: draws in overlapping windows of this side, pixels, or these rows and columns, for thin structures in
            large images, see :class:`~monai_sa2va.inferers.sliding_window.SlidingWindows`; ``None`` draws the whole
            picture at once. What the prompts name is read beside the whole picture either way.
        overlap: of neighbouring windows, 0 to below 1.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(
        self,
        amp: bool = False,
        max_prompts: int = 32,
        presence_threshold: float | str | None = "stored",
        max_new_tokens: int = 256,
        roi_size: int | Sequence[int] | None = None,
        overlap: float = 0.25,
    ) -> None:
        super().__init__()
        if max_prompts < 1:
            raise ConfigError(f"max_prompts is {max_prompts}; at least 1 is needed")
        self.amp, self.max_prompts = amp, max_prompts
        self.presence = Presence(presence_threshold)
        self.max_new_tokens = check_max_new_tokens(max_new_tokens)
        self.windows = None if roi_size is None else SlidingWindows(roi_size, overlap)

    def __call__(  # type: ignore[override]  # MONAI's own inferers name their arguments, too
        self,
        inputs: Any,
        network: Sa2VA,
        prompts: str | Sequence[str],
        phrases: Sequence[Sequence[str]] | None = None,
        mode: str = "segment",
        replies: Sequence[Reply] | None = None,
    ) -> ImageResult:
        """Segment one picture.

        Args:
            inputs: (H, W, 3) uint8 array, picture of Pillow, or (3, H, W) tensor with values 0 to 255.
            network: the Sa2VA; left in the mode (training or evaluation) that it is in.
            prompts: one sentence or several.
            phrases: the structures that each prompt names, where that is known already.
            mode: ``"segment"``, where the answer is known, or ``"chat"``, where it is generated.
            replies: in chat, the reply to each prompt, where it is known already.

        Raises:
            ConfigError: when there is no such mode.
            DataError: when ``inputs`` is no picture.
            PromptError: when a prompt is empty, too long, names nothing or too much.
        """
        asked, mode = check_prompts(prompts), check_mode(mode)
        for key, given in (("phrases", phrases), ("replies", replies)):
            if given is not None and len(given) != len(asked):
                raise PromptError(f"{key} has {len(given)} entries for {len(asked)} prompts; give one a prompt")
        picture = to_picture(inputs)
        with inferring(network, self.amp):
            tokens, n_tiles = picture_tokens(network, picture)
            if mode == "chat":
                if replies is None:
                    replies = [generate_reply(network, tokens, text, self.max_new_tokens) for text in asked]
                known = [list(reply.names) for reply in replies]
            else:
                known = [
                    list(name_objects(network, tokens, text) if phrases is None else phrases[i])
                    for i, text in enumerate(asked)
                ]
            told = _Told(asked, known, replies if mode == "chat" else None)
            if self.windows is None:
                low, presence, ious, language = self._draw(network, picture, (tokens, n_tiles), told)
                masks = full_size_masks(network, low, (picture.height, picture.width))
            else:
                look = partial(self._window, network, told)
                masks, presence, ious = self.windows(picture, look, self.presence.decision_of(network))
                language = None
        threshold = self.presence.threshold_of(network)
        if threshold is not None:
            masks = masks & (presence >= threshold)[:, None, None]
        return ImageResult(
            masks=masks,
            names=[name for names in known for name in names],
            prompt_indices=[i for i, names in enumerate(known) for _ in names],
            presence=presence,
            iou_scores=ious,
            answers=told.answers(network, n_tiles),
            phrases=known,
            replies=list(replies or ()),
            presence_threshold=threshold,
            language=language,
        )

    def _draw(
        self, network: Sa2VA, picture: Image.Image, seen: tuple[Any, int], known: _Told
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, S/4, S/4); presence and predicted IoU (N,), on the CPU; and what SAM2 was told, (N, C)."""
        tokens, n_tiles = seen
        maps, rows = picture_maps(network, picture), known.rows(network, n_tiles)
        masks, presence, ious, language = [], [], [], []
        for first in range(0, len(rows), self.max_prompts):
            part = rows[first : first + self.max_prompts]
            # what stands on padding is not attended to, and 0 is never [SEG]
            ids = pad_sequence(list(part), batch_first=True)
            attended = pad_sequence([torch.ones_like(row) for row in part], batch_first=True)
            told = tell_objects(network, tokens, ids, attended)
            found = draw_objects(network, maps, GroundingPrompts.of_language(told))
            logits, predicted = found.best()
            masks.append(logits)
            presence.append(self.presence(network, found.object_scores))
            ious.append(predicted.float().cpu())
            language.append(told)
        return torch.cat(masks), torch.cat(presence), torch.cat(ious), torch.cat(language)

    def _window(self, network: Sa2VA, told: _Told, picture: Image.Image) -> SeenLogits:
        low, presence, ious, _ = self._draw(network, picture, picture_tokens(network, picture), told)
        size = (picture.height, picture.width)
        logits = upsample_mask_logits(low.float(), network.config.grounding.image_size, size)
        return SeenLogits(logits.cpu(), presence, ious)


@dataclass(frozen=True)
class _Told:
    """What is answered to each prompt, whatever the picture."""

    asked: Sequence[str]
    names: Sequence[list[str]]
    replies: Sequence[Reply] | None

    def rows(self, network: Sa2VA, n_tiles: int) -> list[torch.Tensor]:
        """Token ids of each prompt with its answer, about a picture of so many tiles."""
        if self.replies is None:
            pairs = zip(self.asked, self.names, strict=True)
            return [answer_tokens(network, text, tuple(names), n_tiles)[0] for text, names in pairs]
        rows = []
        for text, reply in zip(self.asked, self.replies, strict=True):
            ids = network.processor.conversation([(text, None)], n_tiles)[Keys.INPUT_IDS]
            rows.append(torch.cat([ids, torch.tensor(reply.ids, dtype=ids.dtype)]))
        return rows

    def answers(self, network: Sa2VA, n_tiles: int) -> list[str]:
        """The answer to each prompt."""
        if self.replies is not None:
            return [reply.text for reply in self.replies]
        pairs = zip(self.asked, self.names, strict=True)
        return [answer_tokens(network, text, tuple(names), n_tiles)[1] for text, names in pairs]


def check_mode(mode: str) -> str:
    """The mode, where there is one of that name.

    Raises:
        ConfigError: when it is neither ``"segment"`` nor ``"chat"``.
    """
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
    return mode


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """One or several sentences as a list, their white space trimmed.

    Raises:
        PromptError: when there is none, they are a dictionary, or one is no text, empty or too long.
    """
    if isinstance(prompts, Mapping):
        raise PromptError("prompts is a dictionary, as of a datalist's entry; give sentences")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise PromptError("there is no prompt; give at least one, e.g. 'Segment the vessels.'")
    return [check_prompt(text) for text in texts]
