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

"""The reference's way: the language model sees a picture or the first frames of a cine, SAM2 carries them forward."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import Inferer

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError, PromptError
from monai_sa2va.inferers.forward import ForwardDrawer
from monai_sa2va.inferers.image import ImageResult, check_mode
from monai_sa2va.inferers.presence import Presence
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.steps import inferring
from monai_sa2va.networks.chat import check_max_new_tokens, generate_reply, name_objects, speak
from monai_sa2va.networks.naming import answer_ids, find_objects
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.chat import Control, encode, get_template
from monai_sa2va.transforms.picture import to_picture
from monai_sa2va.transforms.sentences import check_prompt

__all__ = ["FIRST_FRAMES", "FirstFramesInferer", "Prediction"]

FIRST_FRAMES = "first5"
"""Name of the reference's context of a cine: its first five frames."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """An answer as the reference gives it.

    Attributes:
        text: the answer, control tokens and what ended it included.
        ids: of its tokens.
        names: of its objects, as :class:`~monai_sa2va.networks.chat.Reply` describes them.
        frames: what there is of each frame; none where nothing was shown.
    """

    text: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    frames: Sequence[ImageResult]


class FirstFramesInferer(Inferer):
    """Segments a cine, or a picture, exactly as the reference does.

    The language model sees the first frames. What its [SEG]s say prompts SAM2 in each of them, and memory carries the
    objects through the frames that follow, forward only: an object that no first frame shows is not found.

    Args:
        amp: autocast to bfloat16 on the network's device; ``False`` leaves an outer autocast as it is.
        n_context: frames that the language model sees, at least 1.
        memory_dtype: type that SAM2's memory is kept in: ``"bfloat16"`` as in the reference, whatever the weights are,
            ``"float32"``, ``"float16"``, or ``None`` for the weights' own.
        presence_threshold: as for :class:`~monai_sa2va.inferers.image.ImageInferer`.
        max_new_tokens: most tokens of an answer that is generated.
        max_objects: objects that are drawn at a time; less needs less memory.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(
        self,
        amp: bool = False,
        n_context: int = 5,
        memory_dtype: str | None = "bfloat16",
        presence_threshold: float | str | None = "stored",
        max_new_tokens: int = 2048,
        max_objects: int = 16,
    ) -> None:
        super().__init__()
        self.amp, self.n_context = amp, n_context
        self.drawer = ForwardDrawer(n_context, memory_dtype, max_objects)
        self.presence = Presence(presence_threshold)
        self.max_new_tokens = check_max_new_tokens(max_new_tokens)

    def __call__(  # type: ignore[override]  # MONAI's own inferers name their arguments, too
        self,
        inputs: Sequence[Any],
        network: Sa2VA,
        prompt: str,
        mode: str = "segment",
        progress: Callable[[int, int], None] | None = None,
    ) -> SliceResults:
        """Segment a cine by a sentence.

        Args:
            inputs: the frames in their order, all of one size, each as for
                :class:`~monai_sa2va.inferers.image.ImageInferer`; read one at a time.
            network: the Sa2VA; left in the mode (training or evaluation) that it is in.
            prompt: the sentence.
            mode: ``"segment"``, where the answer is known, or ``"chat"``, where it is generated.
            progress: called with the number of frames done and of all.

        Returns:
            What there is of each frame.

        Raises:
            ConfigError: when there is no such mode.
            DataError: when there is no frame, or one is no picture or of another size.
            PromptError: when the sentence is empty, too long, or names nothing or too much.
        """
        chat, prompt = check_mode(mode) == "chat", check_prompt(prompt)
        if not len(inputs):
            raise DataError("there is no frame; give at least one")
        with inferring(network, self.amp):
            tokens, tiles = self._see(network, inputs, clip=True)
            if chat:
                reply = generate_reply(network, tokens, prompt, self.max_new_tokens, tiles)
                names, answer = list(reply.names), reply.text
                asked = network.processor.conversation([(prompt, None)], tiles)[Keys.INPUT_IDS]
                ids = torch.cat([asked, torch.tensor(reply.ids, dtype=asked.dtype)])
            else:
                # a sentence that only the language model can read is read beside the first frame
                names = find_objects(network, self._see(network, [inputs[0]], clip=True)[0], prompt)
                ids, answer = answer_ids(network, prompt, names, tiles)
            row = ids.unsqueeze(0).to(network.device)
            language = network.language_embeddings(tokens, row, torch.ones_like(row))
            return self._draw(network, inputs, language, names, answer, progress)

    def predict(
        self,
        inputs: Sequence[Any],
        network: Sa2VA,
        text: str,
        past_text: str = "",
        mask_prompts: Any = None,
        clip: bool = False,
        answer: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Answer a question in the reference's markup.

        Args:
            inputs: one picture, the frames of a cine, or nothing.
            network: the Sa2VA; left in the mode (training or evaluation) that it is in.
            text: the question; ``<image>`` stands where the pictures do.
            past_text: turns before it, with all their markup.
            mask_prompts: (n, H, W) regions of the picture that the question calls region1, region2 and so on.
            clip: whether ``inputs`` are the frames of a cine: each is then one tile.
            answer: what is answered, where that is known; ``None`` generates it.
            progress: called with the number of frames done and of all.

        Raises:
            DataError: when a frame is no picture or of another size than the first.
            PromptError: when the question can't be asked so, or regions don't fit the picture.
        """
        if mask_prompts is not None and (clip or not len(inputs)):
            raise PromptError("mask_prompts are regions of a picture; give them with an image, not with a video")
        if clip and not len(inputs):
            raise DataError("the video has no frame; give at least one")
        processor = network.processor
        with inferring(network, self.amp):
            tokens: Any = None
            tiles: list[int] = []
            regions: list[int] = []
            if len(inputs):
                tokens, tiles = self._see(network, inputs, clip)
            if mask_prompts is not None:
                picture = to_picture(inputs[0])
                if tiles[0] > 1 and not network.config.use_thumbnail:
                    raise PromptError("mask_prompts need a view of the whole picture; turn use_thumbnail on")
                covered = processor.regions(mask_prompts, (picture.height, picture.width))
                tokens = network.mllm.with_regions(tokens, covered)
                regions = covered.flatten(1).sum(1).tolist()
            asked = processor.question(text, past_text, tiles, regions)
            known = None if answer is None else _as_answered(network, answer)
            spoken = speak(network, asked, tokens, self.max_new_tokens, known)
            said = network.tokenizer.decode(spoken.ids).strip()
            if tokens is None:
                return Prediction(said, tuple(spoken.ids), (), [])
            if spoken.ids[-1:] == [processor.seg_token_id]:
                warnings.warn("the answer was cut short behind a [SEG], which has no mask then", stacklevel=2)
            names, states = name_objects(network, spoken.ids[:-1], text), spoken.states
            if network.config.pictures_first:
                states = torch.cat([spoken.asked_states, states])
                names = [text] * len(spoken.asked_states) + names
            frames = self._draw(network, inputs, network.text_hidden_fcs(states), names, said, progress)
        return Prediction(said, tuple(spoken.ids), tuple(names), frames)

    def _see(self, network: Sa2VA, inputs: Sequence[Any], clip: bool) -> tuple[Any, list[int]]:
        """What the language model sees: its image tokens, and the tiles of each picture."""
        processor = network.processor
        if clip:
            first = [to_picture(inputs[i], f"frame {i}") for i in range(min(self.n_context, len(inputs)))]
            sample, tiles = processor.glance(first)
        else:
            sample = processor.image(to_picture(inputs[0]))
            tiles = [processor.n_tiles(sample)]
        pixels = sample[Keys.PIXEL_VALUES].to(network.device, network.dtype)
        return network.mllm.encode_image(pixels, sample.get(Keys.IMAGE_GRID)), tiles

    def _draw(
        self,
        network: Sa2VA,
        inputs: Sequence[Any],
        language: torch.Tensor,
        names: list[str],
        answer: str,
        progress: Callable[[int, int], None] | None,
    ) -> SliceResults:
        threshold = self.presence.threshold_of(network)
        results = SliceResults(len(inputs), progress)
        for number, drawn in enumerate(self.drawer(inputs, network, language)):
            presence = self.presence(network, drawn.object_scores)
            masks = drawn.masks if threshold is None else drawn.masks & (presence >= threshold)[:, None, None]
            result = ImageResult(
                masks=masks,
                names=names,
                prompt_indices=[0] * len(names),
                presence=presence,
                iou_scores=drawn.iou_scores,
                answers=[answer],
                phrases=[names],
                presence_threshold=threshold,
            )
            results.keep(number, result)
        return results


def _as_answered(network: Sa2VA, answer: str) -> list[int]:
    """Ids of a known answer with what ends it."""
    if not isinstance(answer, str):
        raise PromptError(f"answer is a {type(answer).__name__}; give a text, the same for all pictures, or None")
    suffix = get_template(network.config.template).suffix
    return encode(network.tokenizer, [Control(answer.removesuffix(suffix) + suffix)])
