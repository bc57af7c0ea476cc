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

"""Training as it will be used: rounds of clicks on prompted frames, all other frames drawn from memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from monai_sa2va.losses.terms import dice_per_object, full_precision
from monai_sa2va.networks.grounding import GroundingOutput, ObjectIndex
from monai_sa2va.networks.interaction import SimulatedInteraction
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sam2 import DecodedMasks, LanguageSAM2

__all__ = ["Drawn", "Simulation", "simulate"]


class Drawn(NamedTuple):
    """Predictions that losses are computed of; an object that was drawn several times has as many rows.

    Attributes:
        masks: (K, S/4, S/4) logits, the mask of each prediction that is trained.
        decoded: all that was offered, K rows.
        place: frame, slot and embedding of each row.
    """

    masks: Tensor
    decoded: DecodedMasks
    place: ObjectIndex


class Simulation(NamedTuple):
    """What a simulated interaction drew of a batch.

    Attributes:
        prompted: predictions on prompted frames, ``rounds + 1`` an object: all of the first round, then all of the
            next.
        tracked: predictions on the other frames, one an object; ``None`` where there are none.
        last: the last prediction of every object in every frame.
        place: frame, slot and embedding of each row of ``last``.
    """

    prompted: Drawn
    tracked: Drawn | None
    last: GroundingOutput
    place: ObjectIndex


class _Clips(NamedTuple):
    """Objects that are drawn together, as their samples have one length, and the frames that are prompted."""

    length: int
    objects: ObjectIndex  # in the first frame of each sample
    chosen: list[int]

    def at(self, frame: int) -> ObjectIndex:
        return self.objects._replace(frame=self.objects.frame + frame)


def simulate(
    sam2: LanguageSAM2,
    interaction: SimulatedInteraction,
    maps: Sequence[Tensor],
    language: Tensor,
    truth: Tensor,
    objects: Sequence[int],
    frames: Sequence[int],
    asked: Sequence[int] | None = None,
) -> Simulation:
    """Prompt, correct and follow every object of a batch.

    Args:
        sam2: draws the masks.
        interaction: what the objects are prompted by.
        maps: of the frames of the batch, from :meth:`LanguageSAM2.image_features`.
        language: (n, C), one embedding an object of each sample.
        truth: (frames of the batch, N, H, W), foreground above 0.5; all zero where an object is absent.
        objects: number of objects of each sample.
        frames: number of frames of each sample.
        asked: the frame of each sample that the language model saw, counted in the sample; it is always prompted.
            ``None`` where no frame stands out.
    """
    clips = list(_gather(interaction, truth, objects, frames, asked, language.device))
    prompted = _joined([each.at(frame) for each in clips for frame in each.chosen], language.device)
    features = [level[prompted.frame] for level in sam2.without_memory(maps)]
    rounds = _rounds(sam2, interaction, features, language[prompted.embedding], _truth(truth, prompted))
    tracked, places = _follow(sam2, clips, maps, prompted, rounds[-1].decoded)
    first = Drawn(
        torch.cat([each.masks for each in rounds]),
        _stack([each.decoded for each in rounds]),
        ObjectIndex(*(column.repeat(len(rounds)) for column in prompted)),
    )
    rest, index = None, prompted
    last = [rounds[-1].decoded]
    if tracked:
        decoded, index = _stack(tracked), _joined(places, language.device)
        rest = Drawn(decoded.best()[0], decoded, index)
        last.append(decoded)
        index = _joined([prompted, index], language.device)
    together = _stack(last)
    return Simulation(first, rest, GroundingOutput(*together.best(), together.object_scores), index)


class _Round(NamedTuple):
    masks: Tensor
    decoded: DecodedMasks


def _rounds(
    sam2: LanguageSAM2, interaction: SimulatedInteraction, features: list[Tensor], language: Tensor, truth: Tensor
) -> list[_Round]:
    """Draw prompted objects, then correct them by a click a round."""
    prompts = interaction.first_prompts(language, truth, sam2.image_size)
    rounds: list[_Round] = []
    for number in range(interaction.rounds + 1):
        if number and len(truth):
            last, _ = rounds[-1].decoded.best()
            prompts = interaction.corrected(prompts, last, truth, sam2.image_size, sam2.click_mark)
        decoded = sam2.decode(features, prompts)
        rounds.append(_Round(_trained(decoded, prompts, truth), decoded))
    return rounds


def _trained(decoded: DecodedMasks, prompts: GroundingPrompts, truth: Tensor) -> Tensor:
    """The masks that are trained: the best by predicted IoU, of an ambiguous click the one nearest to the truth."""
    masks, _ = decoded.best()
    ambiguous = prompts.is_ambiguous()
    if not ambiguous.any():
        return masks
    offered = decoded.masks[ambiguous]
    with torch.no_grad():
        number, side = offered.shape[1], offered.shape[-1]
        logits = full_precision(offered).flatten(0, 1).flatten(1)
        small = functional.adaptive_avg_pool2d(truth[ambiguous].to(logits), side)
        target = small.flatten(1).repeat_interleave(number, dim=0)
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        cost = entropy + dice_per_object(logits.sigmoid(), target, smooth=1.0)
        nearest = cost.view(-1, number).argmin(1)
    chosen = offered[torch.arange(len(offered), device=offered.device), nearest]
    return masks.index_put((ambiguous,), chosen)


def _follow(
    sam2: LanguageSAM2, clips: Sequence[_Clips], maps: Sequence[Tensor], prompted: ObjectIndex, found: DecodedMasks
) -> tuple[list[DecodedMasks], list[ObjectIndex]]:
    """Draw all frames that weren't prompted from memory: those after a prompted one forward, the others backward."""
    tracked: list[DecodedMasks] = []
    places: list[ObjectIndex] = []
    row = 0
    for each in clips:
        bank, number = MemoryBank(), len(each.objects.frame)
        for frame in each.chosen:
            rows = slice(row, row + number)
            row += number
            if each.length > 1:
                coarse = maps[-1][prompted.frame[rows]]
                decoded = DecodedMasks(*(part[rows] for part in found))
                bank.condition(frame, sam2.remember(coarse, decoded.best()[0], *decoded[2:]))
        for frame, reverse, needed in _order(each):
            place = each.at(frame)
            mine = [level[place.frame] for level in maps]
            entries = bank.entries(frame, reverse, past_pointers_only=not sam2.training)
            conditioned = sam2.attend(mine[-1], entries)
            decoded = sam2.decode([*mine[:-1], conditioned], GroundingPrompts.empty(number, conditioned.device))
            if needed:
                bank.add(frame, sam2.remember(mine[-1], decoded.best()[0], *decoded[2:]), reverse)
            tracked.append(decoded)
            places.append(place)
    return tracked, places


def _order(clips: _Clips) -> Iterator[tuple[int, bool, bool]]:
    """Frame, whether it is reached going backward, and whether others are drawn from it."""
    first, last = clips.chosen[0], clips.chosen[-1]
    # the frames between are reached from either side
    turn = first if first == last or bool(torch.rand(()) < 0.5) else last
    forward = [frame for frame in range(turn + 1, clips.length) if frame not in clips.chosen]
    backward = [frame for frame in range(turn - 1, -1, -1) if frame not in clips.chosen]
    for reverse, frames in ((False, forward), (True, backward)):
        for frame in frames:
            yield frame, reverse, frame != frames[-1]


def _gather(
    interaction: SimulatedInteraction,
    truth: Tensor,
    objects: Sequence[int],
    frames: Sequence[int],
    asked: Sequence[int] | None,
    device: torch.device,
) -> Iterator[_Clips]:
    """Put the samples of one length and one frame that was asked about together, and draw the frames to prompt."""
    whole = ObjectIndex.build(objects, frames, device)
    groups: dict[tuple[int, int | None], list[int]] = {}
    for sample, length in enumerate(frames):
        frame = None if asked is None or length == 1 else asked[sample]
        groups.setdefault((length, frame), []).append(sum(frames[:sample]))
    for (length, frame), firsts in groups.items():
        rows = torch.isin(whole.frame, torch.tensor(firsts, device=device))
        if rows.any():
            index = ObjectIndex(*(column[rows] for column in whole))
            shown = [
                (_truth(truth, index._replace(frame=index.frame + t))).flatten(1).any(1).sum() for t in range(length)
            ]
            yield _Clips(length, index, interaction.conditioned_frames(torch.stack(shown), frame))


def _truth(truth: Tensor, index: ObjectIndex) -> Tensor:
    return truth[index.frame, index.slot] > 0.5


def _joined(parts: Sequence[ObjectIndex], device: torch.device) -> ObjectIndex:
    nothing = ObjectIndex.build([], [], device)
    return ObjectIndex(*(torch.cat(columns) for columns in zip(nothing, *parts, strict=True)))


def _stack(parts: Sequence[DecodedMasks]) -> DecodedMasks:
    return DecodedMasks(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
