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

"""Sa2VA: where the multimodal LLM, the projector and SAM2 meet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from monai_sa2va.config import GroundingConfig, Sa2VAConfig
from monai_sa2va.data.tokenizer import load_tokenizer
from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import DataError
from monai_sa2va.losses.sa2va_loss import as_criterion
from monai_sa2va.networks.checks import asked_frames, check_batch, check_masks, frame_numbers
from monai_sa2va.networks.grounding import ABSENT_LOGIT, GroundingEncoder, GroundingOutput, ObjectIndex
from monai_sa2va.networks.interaction import SimulatedInteraction, as_interaction
from monai_sa2va.networks.meta import RealTables
from monai_sa2va.networks.mllm import build_mllm
from monai_sa2va.networks.naming import answer_ids, find_objects
from monai_sa2va.networks.presets import get_preset
from monai_sa2va.networks.projector import TextHiddenFCs
from monai_sa2va.networks.simulation import Drawn, Simulation, simulate
from monai_sa2va.transforms.chat import IGNORED_LABEL
from monai_sa2va.transforms.processor import Sa2VAProcessor
from monai_sa2va.transforms.sentences import check_prompt

__all__ = ["DEFAULT_TEXT", "ImageEncoding", "Sa2VA", "Sa2VAModel"]

DEFAULT_TEXT = "Segment the vessels."
_Network = TypeVar("_Network", bound="Sa2VA")


class ImageEncoding(NamedTuple):
    """Everything about one image that no prompt changes.

    Attributes:
        tokens: image tokens for the language model, in the form of its family, see
            :class:`~monai_sa2va.networks.mllm.MultimodalLLM`; their ``len`` is their number.
        maps: SAM2's feature maps of its frames, finest first, as :meth:`LanguageSAM2.image_features` gives them:
            for any prompt, with memory or without.
    """

    tokens: Any
    maps: list[torch.Tensor]


class Sa2VA(nn.Module):
    """A multimodal LLM whose [SEG] tokens prompt SAM2.

    Args:
        config: geometry; a :class:`Sa2VAConfig`, its dictionary, or the name of a preset.
        criterion: computes the losses where targets are given: a :class:`~monai_sa2va.losses.Sa2VALoss`, or any
            MONAI segmentation loss, which then takes the place of the mask and Dice parts.
        seed: for the initial weights; ``None`` leaves torch's generator as it is.
        interaction: how objects are prompted and corrected while the network trains, and that the frames of a sample
            that aren't prompted are drawn from memory; ``None`` prompts every object by language in every frame, the
            official recipe.

    Raises:
        ConfigError: when ``config``, ``criterion`` or ``interaction`` can't be used.

    Example:
        >>> network = Sa2VA("tiny", seed=0)
        >>> network(torch.rand(1, 3, 128, 128), text="Segment the vessels.").shape
        torch.Size([1, 1, 128, 128])
    """

    def __init__(
        self,
        config: Sa2VAConfig | Mapping[str, Any] | str,
        criterion: nn.Module | None = None,
        seed: int | None = None,
        interaction: SimulatedInteraction | None = None,
    ) -> None:
        super().__init__()
        if isinstance(config, str):
            config = get_preset(config)
        elif not isinstance(config, Sa2VAConfig):
            config = Sa2VAConfig.from_dict(dict(config))
        self.config = config
        self.tokenizer = load_tokenizer(config)
        self.processor = Sa2VAProcessor(config, self.tokenizer)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            with RealTables():
                self.mllm = build_mllm(config, self.processor.image_token_id)
            self.text_hidden_fcs = TextHiddenFCs(
                config.text.hidden_size, config.grounding.hidden_dim, config.projector_hidden
            )
            self.grounding_encoder = GroundingEncoder(config.grounding)
        self.criterion = as_criterion(criterion)
        self.interaction = as_interaction(interaction)

    @classmethod
    def from_pretrained(
        cls: type[_Network],
        path: str | os.PathLike[str],
        *,
        sam2_config: GroundingConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        allow_pickle: bool = False,
    ) -> _Network:
        """The network of a checkpoint, with its weights; they stream into it, no second copy is ever in memory.

        Args:
            path: folder of an official checkpoint, or its hub id such as ``"ByteDance/Sa2VA-4B"``; or a checkpoint of
                this package, file or folder.
            sam2_config: SAM2's geometry where it isn't hiera-L: a :class:`GroundingConfig`, its fields, or a JSON file.
            dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``None`` keeps the checkpoint's own.
            device: where the weights go; by default the CPU.
            allow_pickle: read ``pytorch_model.bin`` where there are no safetensors; code in it is never run.

        Returns:
            In evaluation mode.

        Raises:
            CheckpointError: when the checkpoint is missing, damaged, of another kind, or its keys aren't exactly the
                network's.
            ConfigError: when its tokenizer can't be used, as one without [SEG].
        """
        # the network knows nothing of files; what does is needed here only
        from monai_sa2va.checkpoints.pretrained import load_pretrained

        return load_pretrained(
            cls, path, sam2_config=sam2_config, dtype=dtype, device=device, allow_pickle=allow_pickle
        )

    @property
    def vision_tower(self) -> nn.Module:
        """The MLLM's vision tower."""
        return self.mllm.vision()

    @property
    def language_model(self) -> nn.Module:
        """The MLLM's language model, without its head."""
        model: nn.Module = self.mllm.model.language_model
        return model

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the MLLM's activations in the backward pass instead of keeping them."""
        with warnings.catch_warnings():
            # transformers 5 renames it in a late minor release; both spellings work until 6
            warnings.simplefilter("ignore", FutureWarning)
            self.mllm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def forward(self, data: Mapping[str, Any] | torch.Tensor, text: str | None = None) -> Any:
        """Segment a batch, or one image tensor by a sentence.

        Args:
            data: a collated batch with ``pixel_values`` (tiles of the batch, 3, t, t; in Qwen's families patches, with
                ``image_grid_thw`` (pictures, 3)), ``g_pixel_values``
                (frames of the batch, 3, S, S), ``input_ids`` (B, L), ``attention_mask`` (B, L), optionally
                ``frames_per_batch`` (B ints), ``prompt_frame`` (B ints: the frame that the tiles show), ``labels``
                (B, L), ``gt_masks`` (frames, N, H, W) and ``loss_counts``; or an image tensor (B, 3, H, W), 0 to 1,
                for which ``text`` is the prompt.
            text: the sentence, with an image tensor.

        Returns:
            For an image tensor the logits (B, 1, H, W). For a batch a dictionary: ``pred_masks``
            (frames, N, S/4, S/4) logits, ``seg_states`` (objects of the batch, D), ``object_scores`` and
            ``iou_scores`` (frames, N); slots beyond a sample's own objects hold ``ABSENT_LOGIT`` and 0. With
            ``gt_masks`` also ``loss_mask``, ``loss_dice``, ``loss_lang`` and ``loss``. In training mode with an
            ``interaction`` the masks are those after the last click, or from memory, and the losses of an object in a
            prompted frame are the mean over all its rounds.

        Raises:
            DataError: when shapes don't fit together.
            PromptError: when ``text`` is empty, too long, says what not to segment, or names nothing or too much.
        """
        if isinstance(data, torch.Tensor):
            return self._segment_tensor(data, DEFAULT_TEXT if text is None else text)
        check_batch(data)
        input_ids, images = data[Keys.INPUT_IDS], data[Keys.GROUNDING_PIXEL_VALUES]
        objects = self.objects_per_sample(input_ids)
        if data.get(Keys.MASKS) is not None:
            check_masks(data[Keys.MASKS], len(images), max(objects, default=0))
        states = self._states(input_ids, data.get(Keys.ATTENTION_MASK), self._image_tokens(data))
        seg_states = states[input_ids == self.processor.seg_token_id]
        maps, language = self.grounding_encoder.encode(images), self.text_hidden_fcs(seg_states)
        losses: dict[str, torch.Tensor] = {}
        if self.training and self.interaction is not None and data.get(Keys.MASKS) is not None:
            simulation = simulate(
                self.grounding_encoder.sam2_model,
                self.interaction,
                maps,
                language,
                data[Keys.MASKS],
                objects,
                frame_numbers(data),
                asked_frames(data),
            )
            found, index = simulation.last, simulation.place
            losses = self._simulated_losses(data, states, simulation)
        else:
            index = ObjectIndex.build(objects, frame_numbers(data), images.device)
            found = self.grounding_encoder.decode(maps, language, index)
            if data.get(Keys.MASKS) is not None:
                losses = self._losses(data, states, found, index)
        output = self._padded(found, index, n_frames=len(images), n_slots=max(objects, default=0))
        return {**output, Keys.SEG_STATES: seg_states, **losses}

    def objects_per_sample(self, input_ids: torch.Tensor) -> list[int]:
        """Number of [SEG] tokens of each sample of ``input_ids`` (B, L)."""
        counts: list[int] = (input_ids == self.processor.seg_token_id).sum(1).tolist()
        return counts

    def loss_counts(self, data: Mapping[str, Any]) -> dict[str, float]:
        """What the sums of the loss parts are divided by: number of masks and of supervised tokens in a batch."""
        objects = self.objects_per_sample(data[Keys.INPUT_IDS])
        masks = sum(n * f for n, f in zip(objects, frame_numbers(data), strict=True))
        labels = data.get(Keys.LABELS)
        tokens = 0 if labels is None else int((labels[:, 1:] != IGNORED_LABEL).sum())
        return {"masks": float(masks), "tokens": float(tokens)}

    def encode_image(
        self, pixel_values: torch.Tensor, g_pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None
    ) -> ImageEncoding:
        """Encode one image once, for any number of prompts.

        Args:
            pixel_values: (tiles, 3, t, t) float, or patches, as the processor gives them.
            g_pixel_values: (frames, 3, S, S) float.
            image_grid_thw: (1, 3) int64, with patches.
        """
        tokens = self.mllm.encode_image(pixel_values, image_grid_thw)
        return ImageEncoding(tokens, self.grounding_encoder.encode(g_pixel_values))

    def segment(
        self, encoding: ImageEncoding, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[list[int], GroundingOutput]:
        """Segment one encoded image by several prompts, each with its answer, in one pass.

        Args:
            encoding: from :meth:`encode_image`.
            input_ids: (P, L) int64, prompts with answers.
            attention_mask: (P, L) int64.

        Returns:
            The number of objects of each prompt, and the masks of all: by prompt, then frame, then object.
        """
        prompts = len(input_ids)
        embeddings = self.language_embeddings(encoding.tokens, input_ids, attention_mask)
        objects = self.objects_per_sample(input_ids)
        n_frames = len(encoding.maps[-1])
        index = ObjectIndex.build(objects, [n_frames] * prompts, input_ids.device)
        # every prompt sees the same frames
        index = index._replace(frame=index.frame % n_frames)
        return objects, self.grounding_encoder.decode(encoding.maps, embeddings, index)

    def language_embeddings(self, tokens: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What several prompts about one picture, each with its answer, tell SAM2.

        Args:
            tokens: of the picture, from ``mllm.encode_image``.
            input_ids: (P, L) int64, prompts with answers.
            attention_mask: (P, L) int64.

        Returns:
            (M, C), one embedding a [SEG]: by prompt, then in the answer's order.
        """
        states = self._states(input_ids, attention_mask, self.mllm.repeat(tokens, len(input_ids)))
        embeddings: torch.Tensor = self.text_hidden_fcs(states[input_ids == self.processor.seg_token_id])
        return embeddings

    def _image_tokens(self, data: Mapping[str, Any]) -> Any:
        pixels = data.get(Keys.PIXEL_VALUES)
        return None if pixels is None else self.mllm.encode_image(pixels, data.get(Keys.IMAGE_GRID))

    def _states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, image_tokens: Any) -> torch.Tensor:
        embedded: Any = self.mllm.embed(input_ids, image_tokens)
        return self.mllm.hidden_states(embedded, attention_mask)

    def _padded(self, found: GroundingOutput, index: ObjectIndex, n_frames: int, n_slots: int) -> dict[str, Any]:
        masks = found.masks.new_full((n_frames, n_slots, *found.masks.shape[-2:]), ABSENT_LOGIT)
        place = (index.frame, index.slot)
        zeros = found.iou_scores.new_zeros((n_frames, n_slots))
        return {
            Keys.PRED_MASKS: masks.index_put(place, found.masks),
            Keys.IOU_SCORES: zeros.index_put(place, found.iou_scores),
            Keys.OBJECT_SCORES: zeros.index_put(place, found.object_scores.to(zeros.dtype)),
        }

    def _language(self, data: Mapping[str, Any], states: torch.Tensor) -> dict[str, torch.Tensor]:
        if data.get(Keys.LABELS) is None:
            return {}
        targets = data[Keys.LABELS][:, 1:]
        supervised = targets != IGNORED_LABEL
        return {
            "language_logits": self.mllm.vocabulary_logits(states[:, :-1][supervised]),
            "language_targets": targets[supervised],
        }

    def _losses(
        self, data: Mapping[str, Any], states: torch.Tensor, found: GroundingOutput, index: ObjectIndex
    ) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = self.criterion(
            found.masks,
            data[Keys.MASKS][index.frame, index.slot],
            iou_scores=found.iou_scores,
            object_scores=found.object_scores,
            counts=data.get(Keys.LOSS_COUNTS),
            **self._language(data, states),
        )
        return losses

    def _simulated_losses(
        self, data: Mapping[str, Any], states: torch.Tensor, simulation: Simulation
    ) -> dict[str, torch.Tensor]:
        """Every object counts once a frame, whether it was drawn in several rounds or from memory."""
        assert self.interaction is not None
        counts = data.get(Keys.LOSS_COUNTS) or {"masks": float(max(len(simulation.place.frame), 1))}
        rounds = {**counts, "masks": counts["masks"] * (self.interaction.rounds + 1)}
        losses = self._drawn_losses(data, simulation.prompted, rounds, **self._language(data, states))
        if simulation.tracked is None:
            return losses
        tracked = self._drawn_losses(data, simulation.tracked, counts)
        return {name: value + tracked[name] for name, value in losses.items()}

    def _drawn_losses(
        self, data: Mapping[str, Any], drawn: Drawn, counts: Mapping[str, Any], **language: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = self.criterion(
            drawn.masks,
            data[Keys.MASKS][drawn.place.frame, drawn.place.slot],
            iou_scores=drawn.decoded.iou_scores,
            candidate_masks=drawn.decoded.masks,
            object_scores=drawn.decoded.object_scores,
            counts=counts,
            **language,
        )
        return losses

    def _segment_tensor(self, images: torch.Tensor, text: str) -> torch.Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"the image has shape {tuple(images.shape)}; expected (B, 3, H, W) with values 0 to 1")
        text = check_prompt(text)
        pictures = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        masks = []
        for picture in pictures:
            sample = self.processor.image(picture)
            encoding = self.encode_image(
                sample[Keys.PIXEL_VALUES].to(self.device, self.dtype),
                sample[Keys.GROUNDING_PIXEL_VALUES].to(self.device, self.dtype),
                sample.get(Keys.IMAGE_GRID),
            )
            names = find_objects(self, encoding.tokens, text)
            ids = answer_ids(self, text, names, self.processor.n_tiles(sample))[0].unsqueeze(0).to(self.device)
            _, found = self.segment(encoding, ids, torch.ones_like(ids))
            # the union of a sentence's objects: this door has one channel
            masks.append(found.masks.amax(0, keepdim=True))
        side = self.config.grounding.image_size
        logits = F.interpolate(torch.stack(masks), size=(side, side), mode="bilinear", align_corners=False)
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False).to(images.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype


Sa2VAModel = Sa2VA
