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

"""The one door: an image and sentences in, masks on the image's own grid out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_sa2va.bundle_network import load_bundle
from monai_sa2va.checkpoints.adapters import apply_adapter
from monai_sa2va.checkpoints.info import read_info
from monai_sa2va.checkpoints.pretrained import as_dtype, load_source
from monai_sa2va.checkpoints.source import open_checkpoint
from monai_sa2va.config import GroundingConfig
from monai_sa2va.data.read_image import read_image
from monai_sa2va.errors import ConfigError, PromptError
from monai_sa2va.inferers.agreement import check_planes
from monai_sa2va.inferers.correction import CorrectionInferer
from monai_sa2va.inferers.first_frames import FIRST_FRAMES, FirstFramesInferer
from monai_sa2va.inferers.image import ImageInferer, check_mode, check_prompts
from monai_sa2va.inferers.slice_results import join_slices
from monai_sa2va.inferers.stack import StackInferer
from monai_sa2va.inferers.visual_prompts import sort_by_slice
from monai_sa2va.inferers.volume import VolumeInferer, check_context, check_volume_mode
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.pictures import PictureReader
from monai_sa2va.reference_questions import ReferenceQuestions
from monai_sa2va.segmentation import Segmentation, join_results
from monai_sa2va.transforms.intensity import Window, as_window
from monai_sa2va.transforms.stacks import StackPlanes
from monai_sa2va.volume_corrections import VolumeCorrections
from monai_sa2va.volume_questions import VolumeQuestions

__all__ = ["Segmentation", "Segmenter", "as_device"]


class Segmenter:
    """Segments pictures and volumes by sentences, and by clicks, boxes and rough masks.

    Args:
        network: with its weights.
        device: where it runs; by default a CUDA device where there is one, else the CPU.
        amp: autocast to bfloat16; ``None`` is on for CUDA and off elsewhere. Not with ``inferer``, which has its own.
        window: how grey values become 0 to 255, as :func:`~monai_sa2va.transforms.intensity.as_window` takes it.
            Percentiles are those of the whole volume.
        inferer: applies the network to one picture.
        axis: how volumes are sliced: ``"auto"`` (the plane in which each was taken, see
            :func:`~monai_sa2va.transforms.geometry.slice_plane`), ``"axial"``, ``"coronal"``, ``"sagittal"``, or the
            number (-3 to 2) of a source axis.
        stack_inferer: draws objects that are shown by clicks, boxes or masks, and carries them through volumes; by
            default one that agrees with ``inferer``.
        first_frames_inferer: does as the reference does, for ``context="first5"`` and :meth:`predict_forward`; by
            default one that agrees with ``inferer``.
        volume_inferer: goes through volumes and cines by sentences.
        planes: ``"one"``, in which volumes are asked by sentences; ``"majority"`` or ``"mean"``: in axial, coronal and
            sagittal slices, which are then brought to agree, see :data:`~monai_sa2va.inferers.agreement.AGREEMENTS`;
            of volumes with nearly isotropic voxels.

    Raises:
        ConfigError: when the device, the window or the axis can't be used, or ``amp`` and ``inferer`` are both given.

    Example:
        >>> segmenter = Segmenter(Sa2VA("tiny", seed=0), device="cpu")
        >>> segmenter.segment(np.zeros((64, 80), np.uint8), "Segment the vessels.").masks.shape
        (1, 64, 80)
    """

    def __init__(
        self,
        network: Sa2VA,
        device: torch.device | str | None = None,
        amp: bool | None = None,
        window: str | Mapping[str, Any] | Window = "auto",
        inferer: ImageInferer | None = None,
        axis: int | str = "auto",
        stack_inferer: StackInferer | None = None,
        first_frames_inferer: FirstFramesInferer | None = None,
        volume_inferer: VolumeInferer | None = None,
        planes: str = "one",
    ) -> None:
        if inferer is not None and amp is not None:
            raise ConfigError("amp and inferer are both given; set amp in the inferer")
        self.device = as_device(device)
        self.network = network.to(self.device).eval()
        self.window, self.stack = as_window(window), StackPlanes(axis)
        self.reader = PictureReader(self.window, self.stack)
        self.inferer = inferer or ImageInferer(amp=self.device.type == "cuda" if amp is None else amp)
        self.stack_inferer = stack_inferer or StackInferer(
            self.inferer.amp, presence_threshold=self.inferer.presence.threshold
        )
        self.first_frames_inferer = first_frames_inferer or FirstFramesInferer(
            self.inferer.amp, presence_threshold=self.inferer.presence.threshold
        )
        self.volume_inferer, self.planes = volume_inferer or VolumeInferer(), check_planes(planes)

    @classmethod
    def from_bundle(
        cls,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the name is part of the contract
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        adapter: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        amp: bool | None = None,
        window: str | Mapping[str, Any] | Window | None = None,
        axis: int | str | None = None,
        inferer: ImageInferer | None = None,
        volume_inferer: VolumeInferer | None = None,
        planes: str = "one",
        **overrides: Any,
    ) -> Segmenter:
        """Build the network of a bundle's ``configs/inference.json`` and load its weights.

        Args:
            dir: the bundle's folder, looked for as :func:`~monai_sa2va.bundles.find_bundle` does.
            checkpoint: file of weights in place of the config's ``checkpoint``, or the folder of a checkpoint, as for
                :meth:`from_pretrained`; such a folder says its network itself, and no bundle is looked for.
            adapter: what a fine-tuning of these weights wrote, which is merged into them.
            device: as for :class:`Segmenter`, like the next three.
            amp: autocast to bfloat16.
            window: how grey values become 0 to 255; by default as in the checkpoint's training.
            axis: how volumes are sliced; by default as in the checkpoint's training.
            inferer: as for :class:`Segmenter`, like the next two.
            volume_inferer: goes through volumes and cines by sentences.
            planes: in which volumes are asked.
            **overrides: values for other ids of the config, e.g. ``network_def={...}``.

        Raises:
            ConfigError: when the bundle, its config, or an id is missing, or ``network_def`` builds no Sa2VA.
            CheckpointError: when the weights are missing or don't fit, or the adapter is of other ones.
        """
        applied: dict[str, Any] = {"inferer": inferer, "volume_inferer": volume_inferer, "planes": planes}
        if checkpoint is not None and Path(checkpoint).is_dir():
            if overrides:
                raise ConfigError(
                    f"checkpoint is a folder, which says its network itself; leave out {', '.join(overrides)}"
                )
            return cls.from_pretrained(
                checkpoint, adapter=adapter, device=device, amp=amp, window=window, axis=axis, **applied
            )
        target = as_device(device)
        found = load_bundle(dir, checkpoint, adapter, overrides)
        window, axis = found.window if window is None else window, found.axis if axis is None else axis
        return cls(found.network, device=target, amp=amp, window=window, axis=axis, **applied)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        sam2_config: GroundingConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        amp: bool | None = None,
        window: str | Mapping[str, Any] | Window | None = None,
        axis: int | str | None = None,
        adapter: str | os.PathLike[str] | None = None,
        allow_pickle: bool = False,
        inferer: ImageInferer | None = None,
        volume_inferer: VolumeInferer | None = None,
        planes: str = "one",
    ) -> Segmenter:
        """Load a checkpoint, official or of this package.

        Args:
            path: as for :meth:`Sa2VA.from_pretrained <monai_sa2va.networks.sa2va.Sa2VA.from_pretrained>`, like
                ``allow_pickle`` and the next two.
            sam2_config: SAM2's geometry where it isn't hiera-L.
            dtype: of the weights; ``None`` keeps the checkpoint's own.
            device: as for :class:`Segmenter`, like the next three.
            amp: autocast to bfloat16.
            window: how grey values become 0 to 255; by default as in the adapter's or the checkpoint's training, else
                ``"auto"``.
            axis: how volumes are sliced; by default likewise.
            adapter: what a fine-tuning of these weights wrote, which is merged into them.
            allow_pickle: read pickles where there are no safetensors.
            inferer: as for :class:`Segmenter`, like the next two.
            volume_inferer: goes through volumes and cines by sentences.
            planes: in which volumes are asked.

        Raises:
            CheckpointError: when the checkpoint can't be used, or the adapter is of other weights.
            ConfigError: when its tokenizer, the device, the window or the axis can't be used.
        """
        target, wanted = as_device(device), as_dtype(dtype)
        source = open_checkpoint(path, sam2_config=sam2_config, allow_pickle=allow_pickle)
        told = source.preprocessing if adapter is None else {**source.preprocessing, **read_info(adapter)}
        window = told.get("window", "auto") if window is None else window
        axis = told.get("axis", "auto") if axis is None else axis
        network = apply_adapter(load_source(Sa2VA, source, wanted, target), adapter)
        return cls(
            network,
            device=target,
            amp=amp,
            window=window,
            axis=axis,
            inferer=inferer,
            volume_inferer=volume_inferer,
            planes=planes,
        )

    def segment(
        self,
        image: Any,
        prompts: str | Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        mode: str = "segment",
        points: Any = None,
        boxes: Any = None,
        mask: Any = None,
        from_slice: int | None = None,
        context: str | None = None,
        volume: str | None = None,
    ) -> Segmentation:
        """Segment one image.

        With ``points``, ``boxes`` or ``mask`` one object is shown, in voxels of the result's masks, by them alone or
        beside a sentence. Of a volume it is drawn in the slices where it is shown and carried through the others by
        SAM2's memory.

        Args:
            image: as for :func:`~monai_sa2va.data.read_image.read_image`.
            prompts: one sentence or several; ``None`` where the object is shown.
            progress: called with the number of slices done and of all; for several prompts ``from_slice`` again for
                each.
            mode: ``"segment"``: the answer is known, one object a name. ``"chat"``: the language model writes the
                answer, with objects wherever it put [SEG], or with none; of a volume it answers about the middle
                slice, and the objects are those of all slices.
            points: (N, 3) of a picture: x, y, label; (N, 4) of a volume: x, y, z, label. Label 1 is on the object, 0
                beside it; in the order of the clicks, of which each corrects the mask before it.
            boxes: of a picture (4,): x and y of the first, then of the last pixel inside; of a volume (6,) or (N, 6),
                x, y, z each.
            mask: roughly the object, of the shape of one mask of the result.
            from_slice: of a volume, the slice that the sentences are asked in; the others follow by memory. By default
                they are asked in every slice.
            context: which slices of a volume, or frames of a cine, the language model sees where memory carries what
                they show: ``"sweep"`` or ``"uniform"``, as for :class:`~monai_sa2va.inferers.volume.VolumeInferer`; or
                ``"first5"``, as in the reference: the first five, from which memory goes forward, see
                :class:`~monai_sa2va.inferers.first_frames.FirstFramesInferer`.
            volume: ``"slices"``: the sentences are asked in every slice; ``"propagate"``: in few, from which memory
                carries the objects both ways; ``"auto"``: propagated where a DICOM series says that its frames are
                frames in time, else slices. By default as ``volume_inferer`` has it. A series whose slices stand at
                uneven steps or in several directions is always asked slice by slice.

        Raises:
            ConfigError: when there is no such mode, context or volume, they contradict each other, or are given for an
                object that is shown.
            DataError: when the image can't be used.
            PromptError: when there is nothing to ask for; a prompt is empty, too long, or names nothing; or points,
                boxes, mask or ``from_slice`` can't be used.
        """
        chat = check_mode(mode) == "chat"
        check_context(context, check_volume_mode(volume) or self.volume_inferer.volume)
        asked = [] if prompts is None else check_prompts(prompts)
        source = read_image(image)
        pictures = self.reader.slices(source)
        size = pictures.shape if source.pixels.ndim == 4 else pictures.shape[1:]
        shown = sort_by_slice(size, points, boxes, mask)
        for key, value in (("context", context), ("volume", volume)):
            if value is not None and (shown or from_slice is not None):
                raise ConfigError(f"{key} is {value!r}, which takes sentences alone; leave out what shows an object")
        if not shown and from_slice is None:
            if not asked:
                raise PromptError("there is no prompt and nothing shown; give a sentence, points, a box or a mask")
            if context != FIRST_FRAMES:
                ask = VolumeQuestions(self.network, self.inferer, self.volume_inferer, self.stack, self.planes)
                results = ask(source, pictures, asked, mode, volume, context, progress)
            else:
                infer = self.first_frames_inferer
                results = join_slices([infer(pictures, self.network, text, mode, progress) for text in asked])
            return join_results(source, pictures, pictures.geometry, results, asked)
        if chat:
            raise ConfigError("mode is 'chat', which takes sentences alone; leave out points, boxes, mask, from_slice")
        if shown and (from_slice is not None or len(asked) > 1):
            raise PromptError("points, boxes and mask show one object where it is; give one prompt, and no from_slice")
        sentences: list[str | None] = [*asked]
        results = join_slices(
            [
                self.stack_inferer(pictures, self.network, sentence, shown, from_slice, progress)
                for sentence in sentences or [None]
            ]
        )
        return join_results(source, pictures, pictures.geometry, results, asked or [""])

    def correct(
        self,
        image: Any,
        prompt: str | None = None,
        *,
        points: Any = None,
        boxes: Any = None,
        agreement: float = 0.9,
        reach: int | None = None,
    ) -> Segmentation:
        """Draw an object in a volume, and correct it where it is shown and as far around as needed.

        What is corrected is what the sentence draws, as :meth:`segment` asks it; without one, what the box, or else the
        first click, does by itself. See :class:`~monai_sa2va.inferers.correction.CorrectionInferer` for what is then
        changed. A picture is drawn as :meth:`segment` draws it.

        Args:
            image: as for :meth:`segment`, like the next three.
            prompt: a sentence of one object, if any.
            points: clicks; at least one, or a box.
            boxes: of the object.
            agreement: intersection over union, 0 to 1, from which on a slice is left as it was.
            reach: slices that a correction is carried at most, each way; ``None`` as far as it changes anything.

        Raises:
            ConfigError: when ``agreement`` or ``reach`` is out of its range.
            DataError: when the image can't be used.
            PromptError: when nothing is shown, the sentence can't be asked or names several objects, or points or
                boxes can't be used.
        """
        threshold = self.inferer.presence.threshold
        correct = CorrectionInferer(self.inferer.amp, agreement, reach, presence_threshold=threshold)
        source = read_image(image)
        if source.pixels.ndim < 4:
            return self.segment(source, prompt, points=points, boxes=boxes)
        asked, pictures = [] if prompt is None else check_prompts(prompt), self.reader.slices(source)
        ask = VolumeQuestions(self.network, self.inferer, self.volume_inferer, self.stack, self.planes)
        draw = VolumeCorrections(self.network, ask, self.stack_inferer, correct)
        results = draw(source, pictures, asked[0] if asked else None, points, boxes)
        return join_results(source, pictures, pictures.geometry, results, asked or [""])

    def predict_forward(
        self,
        image: Any = None,
        video: Any = None,
        text: str | Sequence[str] | None = None,
        past_text: str | Sequence[str] = "",
        mask_prompts: Sequence[Any] | None = None,
        tokenizer: Any = None,
        processor: Any = None,
        *,
        answer: str | None = None,
    ) -> Any:
        """Ask as users of the reference do: the same arguments, the same answer.

        Args:
            image: as for :func:`~monai_sa2va.data.read_image.read_image`; a list of images gives a list of answers,
                each image asked by itself.
            video: a list of frames, each as an image; an array (T, H, W, 3) of uint8; or a volume whose slices are the
                frames. The language model sees the first five.
            text: the question in the reference's markup, with ``<image>`` where the image or the video stands; of
                several images one for all, or a list.
            past_text: the turns before, with all their markup; of several images one for all, or a list.
            mask_prompts: a list with one array (n, H, W) of masks: regions of the image that ``text`` may call region1,
                region2 and so on; of several images a list with one array or ``None`` an image.
            tokenizer: not needed; refused where it is not the network's.
            processor: likewise, what brings a tokenizer.
            answer: what is answered, where it is known; ``None`` generates it.

        Returns:
            ``{"prediction": str, "prediction_masks": list}``: the answer with its control tokens and what ended it, and
            for each [SEG] in it bool masks (T, H, W) of the picture's size, T 1 for an image. Without image and video
            there are no masks.

        Raises:
            ConfigError: when a tokenizer is not the network's.
            DataError: when an image or a frame can't be used.
            PromptError: when the question can't be asked so, or regions don't fit the image.
        """
        ask = ReferenceQuestions(self.network, self.first_frames_inferer, self.reader)
        brought = (tokenizer, getattr(processor, "tokenizer", None))
        return ask(image, video, text, past_text, mask_prompts, brought, answer)


def as_device(device: torch.device | str | None) -> torch.device:
    """A device that is there; ``None`` is a CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: when there is none of that name.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is {device!r}; give cpu, cuda or cuda:0") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {device!r}, but {torch.cuda.device_count()} CUDA devices are there; use cpu")
    return chosen
