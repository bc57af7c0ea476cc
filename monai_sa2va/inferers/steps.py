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
"""The steps that inferers run a network in; what keeps their results may stand between (a server's cache does)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from monai.networks.utils import eval_mode
from PIL import Image
from torch import nn

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.networks.clicks import mark_clicks
from monai_sa2va.networks.memory import Memory, MemoryEntry
from monai_sa2va.networks.naming import answer_ids, find_objects
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.networks.sam2 import DecodedMasks

__all__ = [
    "StepKeeper",
    "answer_tokens",
    "carry_objects",
    "draw_clicked",
    "draw_objects",
    "evaluating",
    "inferring",
    "keeping_steps",
    "name_objects",
    "picture_maps",
    "picture_tokens",
    "remember_objects",
    "tell_objects",
]

_Inputs = ParamSpec("_Inputs")
_Result = TypeVar("_Result")


class StepKeeper(Protocol):
    """What may know the result of a step: that depends on the network's weights and the step's inputs alone.

    Attributes:
        network: in evaluation mode as long as the keeper is asked.
    """

    network: Sa2VA

    def __call__(self, step: str, inputs: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """The result of a step, computed where it isn't known."""


_KEEPER: ContextVar[StepKeeper | None] = ContextVar("step_keeper", default=None)


@contextmanager
def keeping_steps(keeper: StepKeeper) -> Iterator[None]:
    """Let a keeper know the steps that this thread runs its network in."""
    token = _KEEPER.set(keeper)
    try:
        yield
    finally:
        _KEEPER.reset(token)


def _step(run: Callable[Concatenate[Sa2VA, _Inputs], _Result]) -> Callable[Concatenate[Sa2VA, _Inputs], _Result]:
    @wraps(run)
    def kept(network: Sa2VA, *inputs: _Inputs.args, **named: _Inputs.kwargs) -> _Result:
        keeper = _KEEPER.get()
        if keeper is None or keeper.network is not network or named:
            return run(network, *inputs, **named)
        found: _Result = keeper(run.__name__, inputs, lambda: run(network, *inputs, **named))
        return found

    return kept


def evaluating(network: Sa2VA) -> AbstractContextManager[Any]:
    """A network in evaluation mode; it is left as it was. One whose steps are kept is in it already."""
    keeper = _KEEPER.get()
    if keeper is not None and keeper.network is network:
        return nullcontext()
    # MONAI's own sets each module anew, which takes longer than a click where all are as they should be
    waiting: list[nn.Module] = [network]
    while waiting:
        module = waiting.pop()
        if module.training:
            return eval_mode(network)
        # children() takes five times as long
        waiting += [child for child in module._modules.values() if child is not None]
    return nullcontext()


@contextmanager
def inferring(network: Sa2VA, amp: bool) -> Iterator[None]:
    """What an inferer runs a network under: evaluation mode and no gradients; the network is left as it was.

    Args:
        network: the Sa2VA.
        amp: autocast to bfloat16 on its device; ``False`` leaves an outer autocast as it is.
    """
    cast = torch.autocast(network.device.type, dtype=torch.bfloat16) if amp else nullcontext()
    with evaluating(network), torch.inference_mode(), cast:
        yield


@_step
def picture_tokens(network: Sa2VA, picture: Image.Image) -> tuple[Any, int]:
    """A picture (RGB) as the language model sees it: its image tokens, and the number of its tiles."""
    sample: dict[Any, Any] = network.processor.view({Keys.IMAGE: picture})
    pixels = sample[Keys.PIXEL_VALUES].to(network.device, network.dtype)
    tokens = network.mllm.encode_image(pixels, sample.get(Keys.IMAGE_GRID))
    return tokens, network.processor.n_tiles(sample)


@_step
def picture_maps(network: Sa2VA, picture: Image.Image) -> list[torch.Tensor]:
    """SAM2's feature maps of a picture (RGB), one frame, finest first."""
    pixels = network.processor.grounding_image(picture).unsqueeze(0)
    maps: list[torch.Tensor] = network.grounding_encoder.encode(pixels.to(network.device, network.dtype))
    return maps


@_step
def name_objects(network: Sa2VA, tokens: Any, text: str) -> tuple[str, ...]:
    """Names of what a sentence about a picture asks for; see :func:`~monai_sa2va.networks.naming.find_objects`."""
    return tuple(find_objects(network, tokens, text))


@_step
def answer_tokens(network: Sa2VA, text: str, names: tuple[str, ...], n_tiles: int) -> tuple[torch.Tensor, str]:
    """A sentence with its known answer; see :func:`~monai_sa2va.networks.naming.answer_ids`."""
    return answer_ids(network, text, names, n_tiles)


@_step
def tell_objects(network: Sa2VA, tokens: Any, ids: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """What sentences tell SAM2, (M, C); see :meth:`~monai_sa2va.networks.sa2va.Sa2VA.language_embeddings`."""
    return network.language_embeddings(tokens, ids.to(network.device), attended.to(network.device))


@_step
def draw_objects(network: Sa2VA, maps: list[torch.Tensor], prompts: GroundingPrompts) -> DecodedMasks:
    """Draw M objects in one frame by their prompts alone.

    Args:
        network: in evaluation mode.
        maps: from :func:`picture_maps`.
        prompts: of M objects.
    """
    return _draw(network, maps, prompts)


@_step
def draw_clicked(
    network: Sa2VA, maps: list[torch.Tensor], first: GroundingPrompts, places: torch.Tensor, labels: torch.Tensor
) -> DecodedMasks:
    """Draw one object click by click, each with all clicks so far and the mask before it.

    Args:
        network: in evaluation mode.
        maps: from :func:`picture_maps`.
        first: what the object is drawn from before the clicks.
        places: (1, P, 2), x then y in pixels of SAM2's image; at least one.
        labels: (1, P), 1 on the object, 0 beside it.
    """
    if labels.shape[1] == 1:
        before = draw_objects(network, maps, first)
    else:
        before = draw_clicked(network, maps, first, places[:, :-1], labels[:, :-1])
    grounding = network.config.grounding
    clicked, (last, _) = first.with_points(places, labels), before.best()
    mark = network.grounding_encoder.sam2_model.click_mark
    marked = mark_clicks(last, clicked.points, clicked.point_labels, grounding.image_size, mark)
    return _draw(network, maps, clicked.with_masks(marked))


@_step
def remember_objects(network: Sa2VA, frames: Sequence[list[torch.Tensor]], decoded: DecodedMasks) -> Memory:
    """Make a memory of M objects.

    Args:
        network: in evaluation mode.
        frames: maps of the frame that all are in, or of that of each.
        decoded: what was drawn of them.
    """
    logits, _ = decoded.best()
    last = _for_each([maps[-1:] for maps in frames], len(logits))[0]
    return network.grounding_encoder.sam2_model.remember(last, logits, decoded.object_scores, decoded.pointers)


@_step
def carry_objects(network: Sa2VA, frames: Sequence[list[torch.Tensor]], entries: Sequence[MemoryEntry]) -> DecodedMasks:
    """Draw M objects from memory.

    Args:
        network: in evaluation mode.
        frames: maps of the frame that all are in, or of that of each.
        entries: from :meth:`~monai_sa2va.networks.memory.MemoryBank.entries`.
    """
    sam2 = network.grounding_encoder.sam2_model
    objects = next(len(part) for entry in entries for part in entry[1:] if part is not None)
    maps = _for_each(frames, objects)
    conditioned = sam2.attend(maps[-1], entries)
    nothing = GroundingPrompts.empty(objects, conditioned.device, conditioned.dtype)
    return sam2.decode([*maps[:-1], conditioned], nothing)


def _draw(network: Sa2VA, maps: list[torch.Tensor], prompts: GroundingPrompts) -> DecodedMasks:
    sam2 = network.grounding_encoder.sam2_model
    return sam2.decode(sam2.without_memory(_for_each([maps], len(prompts))), prompts)


def _for_each(frames: Sequence[list[torch.Tensor]], objects: int) -> list[torch.Tensor]:
    """Maps with one entry an object."""
    if len(frames) == 1:
        return [level.expand(objects, -1, -1, -1) for level in frames[0]]
    return [torch.cat(levels) for levels in zip(*frames, strict=True)]
