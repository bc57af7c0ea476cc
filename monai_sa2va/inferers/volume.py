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

"""A volume or a cine by sentences: slice by slice, or as a video whose best slices say what the others show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.inferers import Inferer

from monai_sa2va.errors import ConfigError
from monai_sa2va.inferers.first_frames import FIRST_FRAMES
from monai_sa2va.inferers.image import ImageInferer, ImageResult, check_mode, check_prompts
from monai_sa2va.inferers.propagation import Propagation
from monai_sa2va.inferers.slice_results import SliceResults
from monai_sa2va.inferers.slices import SliceAsker, ask_everywhere
from monai_sa2va.inferers.steps import inferring
from monai_sa2va.inferers.sweep import Run, Sweep
from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["CONTEXTS", "VOLUME_MODES", "VolumeInferer", "check_context", "check_volume_mode", "check_windows"]

VOLUME_MODES = ("auto", "slices", "propagate")
"""How a volume is gone through: each slice asked by itself, or drawn from the slices that show an object best; auto
propagates what is known to be frames in time, and asks in the slices of all else."""

CONTEXTS = ("sweep", "uniform")
"""How the slices that the language model sees are chosen where objects are propagated."""


class VolumeInferer(Inferer):
    """Segments volumes and cines by sentences.

    ``"slices"`` asks in each slice by itself. ``"propagate"`` treats the volume as Sa2VA does a video, but for the
    slices that the language model sees:

    - ``"sweep"`` looks for each object over the whole volume: it asks in every few slices, more closely while an object
      isn't found, and then between slices that show an object and slices that don't, until its ends are known.
    - ``"uniform"`` asks in ``n_context`` slices spread evenly. Memory finds the ends of an object: it is gone after
      ``patience`` slices without it.

    Each object is then remembered in the best of the slices that show it, and carried both ways from there by SAM2's
    memory, as far as its own slices go. A slice that was asked keeps what the sentence drew; a mask is emptied where
    its presence is below the threshold. What is kept in memory doesn't grow with the volume.

    Args:
        volume: ``"slices"``, ``"propagate"`` or ``"auto"``, where a call does not say; here auto asks in each slice, as
            a list of slices doesn't tell what it is.
        context: ``"sweep"`` or ``"uniform"``, likewise.
        n_context: of ``"sweep"`` the slices that each object is remembered in, of each part of the volume that holds
            it; of ``"uniform"`` the slices that are asked.
        step: every how many slices a sweep asks; ``None`` takes a sixteenth of the volume, 1 to 8.
        finest_step: likewise where an object isn't found; what is thinner may be missed.
        patience: slices without an object, one after the other, after which memory no longer looks for it.
        min_share: of an object that is in several parts of the volume, one that holds less than this share of what the
            largest holds is taken for a mistake; 0 keeps all, as for lesions of very different sizes.
        max_conditioned: as for :class:`~monai_sa2va.networks.memory.MemoryBank`, like the next.
        recent: last slices whose masks a slice attends to.

    Raises:
        ConfigError: when an argument is out of its range.
    """

    def __init__(
        self,
        volume: str = "auto",
        context: str = "sweep",
        n_context: int = 5,
        step: int | None = None,
        finest_step: int = 2,
        patience: int = 3,
        min_share: float = 0.1,
        max_conditioned: int | None = 4,
        recent: int = 6,
    ) -> None:
        super().__init__()
        for name, value in (("n_context", n_context), ("finest_step", finest_step), ("patience", patience)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; at least 1 is needed")
        if not 0 <= min_share <= 1:
            raise ConfigError(f"min_share is {min_share}; give 0 to 1")
        if step is not None and step < 1:
            raise ConfigError(f"step is {step}; give at least 1, or null for one that fits the volume")
        # refused here, not at the first volume
        MemoryBank(max_conditioned, recent)
        self.volume, self.context = check_volume_mode(volume) or "auto", _check_own_context(context)
        self.n_context, self.step, self.finest_step, self.patience = n_context, step, finest_step, patience
        self.min_share, self.max_conditioned, self.recent = min_share, max_conditioned, recent

    def __call__(  # type: ignore[override]  # MONAI's own inferers name their arguments, too
        self,
        inputs: Sequence[Any],
        network: Sa2VA,
        prompts: str | Sequence[str],
        inferer: ImageInferer,
        mode: str = "segment",
        volume: str | None = None,
        context: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        known: ImageResult | None = None,
    ) -> SliceResults:
        """Segment a volume or a cine.

        Args:
            inputs: the slices in their order, at least one, each as ``inferer`` takes it; read one at a time.
            network: the Sa2VA; left in the mode (training or evaluation) that it is in.
            prompts: one sentence or several; the middle slice's reading of a free one holds for all.
            inferer: applies the network to one slice.
            mode: ``"segment"`` or ``"chat"``, as for ``inferer``.
            volume: in place of the constructor's.
            context: ``"sweep"`` or ``"uniform"``, in place of the constructor's; with it objects are propagated.
            progress: called with the number of slices done and of all.
            known: what another view of the same volume was found to hold, in place of the middle slice's reading.

        Raises:
            ConfigError: when there is no such mode or context, or a context is given for slices asked by themselves.
            DataError: when a slice is no picture.
            PromptError: when a sentence can't be asked.
        """
        chosen = check_volume_mode(volume) or self.volume
        around = self.context if context is None else _check_own_context(context)
        if check_context(context, chosen) is not None:
            chosen = "propagate"
        ask = SliceAsker(inputs, network, inferer, check_prompts(prompts), check_mode(mode), known)
        if chosen != "propagate" or len(inputs) == 1:
            return ask_everywhere(ask, progress)
        check_windows(inferer, chosen)
        results = SliceResults(len(inputs), progress)
        with inferring(network, inferer.amp):
            sweep = Sweep(ask, results, inferer.presence.decision_of(network))
            propagation = Propagation(
                network, inputs, inferer.presence, results, self.max_conditioned, self.recent, self.patience
            )
            for item, runs in enumerate(self._find(sweep, around)):
                best = [sweep.anchors(item, run, self.n_context) for run in runs]
                propagation.add(item, runs, {number: told for each in best for number, told in each.items()})
            propagation.run(sweep.like)
        results.finish()
        return results

    def _find(self, sweep: Sweep, context: str) -> list[list[Run]]:
        """The slices of each object."""
        depth = sweep.depth
        if context == "uniform":
            sweep.look((2 * part + 1) * depth // (2 * self.n_context) for part in range(self.n_context))
        else:
            sweep.sweep(self.step or max(1, min(depth // 16, 8)), self.finest_step)
            sweep.narrow()
        return [sweep.runs(item, self.min_share) for item in range(sweep.objects)]


def check_volume_mode(volume: str | None) -> str | None:
    """How a volume is gone through; ``None`` leaves it to the inferer.

    Raises:
        ConfigError: when there is no such mode.
    """
    if volume not in (None, *VOLUME_MODES):
        raise ConfigError(f"volume is {volume!r}; allowed: {', '.join(VOLUME_MODES)}, or none")
    return volume


def check_context(context: str | None, volume: str | None = None) -> str | None:
    """Which slices or frames the language model sees; ``None`` leaves it to the inferer.

    Args:
        context: the name of one.
        volume: how the slices are gone through, where that is known.

    Raises:
        ConfigError: when there is no such context, or the two contradict each other.
    """
    if context not in (None, *CONTEXTS, FIRST_FRAMES):
        raise ConfigError(f"context is {context!r}; allowed: {', '.join(CONTEXTS)}, {FIRST_FRAMES}, or none")
    if context is not None and (volume == "slices" or (context == FIRST_FRAMES and volume == "propagate")):
        raise ConfigError(f"context is {context!r}, which volume {volume!r} has no use for; leave one of them out")
    return context


def check_windows(inferer: ImageInferer, volume: str, context: str | None = None) -> None:
    """Whether slices can be gone through so where each is drawn in windows.

    Args:
        inferer: applies the network to one slice.
        volume: how the slices are gone through.
        context: which of them the language model sees; with one, objects are propagated.

    Raises:
        ConfigError: when they can't.
    """
    if inferer.windows is not None and (volume == "propagate" or context is not None):
        raise ConfigError("volume is 'propagate', which sees slices whole; leave out roi_size, or give 'slices'")


def _check_own_context(context: str) -> str:
    if context not in CONTEXTS:
        raise ConfigError(f"context is {context!r}; allowed: {', '.join(CONTEXTS)}")
    return context
