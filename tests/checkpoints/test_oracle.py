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

"""Official checkpoints against the reference's own numbers: every case file that is there, by what it holds.

The numbers are compared with a network in float64, so that their difference is the reference's own rounding: of logits
of up to 70 that is some 8e-5. Where it is more, they are compared with a network in float32 that adds in the order in
which the reference did: by the same instructions of the processor.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from monai_sa2va.networks.memory import MemoryBank
from monai_sa2va.networks.prompts import GroundingPrompts
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.picture import IMAGENET_MEAN, IMAGENET_STD
from monai_sa2va.transforms.postprocess import upsample_mask_logits

ATOL = 1e-4
# of frames drawn from a memory that is rounded to bfloat16, where one more or less bit of rounding shows
ATOL_BF16_MEMORY = 5e-3
# the kernels of float32 that the oracle was made with; others of equal right give logits that differ by up to 2e-4
KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
KERNEL_THREADS = 2
# half a unit in the last place of float16, in which final logits are stored
RTOL_HALF = 2**-11


class Case:
    """A case file: what went in, and the numbers that the reference gave."""

    def __init__(self, file: Path) -> None:
        self.name = file.stem
        with safe_open(file, framework="pt") as opened:
            self.said = opened.metadata() or {}
        self.tensors = load_file(file)
        self._inputs = self.tensors
        if self.input("pixel_values") is None:
            self._inputs = self._twin(file)

    def _twin(self, file: Path) -> dict[str, Tensor]:
        """The case beside this one that shares its language part, and holds the inputs of both."""
        for other in sorted(file.parent.glob("*.safetensors")):
            with safe_open(other, framework="pt") as opened:
                if "in.pixel_values" not in opened.keys() or "inputs_embeds" not in opened.keys():  # noqa: SIM118
                    continue
                same = opened.get_tensor("inputs_embeds")
            if torch.equal(same, self.tensors["inputs_embeds"]):
                return load_file(other)
        raise AssertionError(f"{file.name} holds no inputs, nor does a case beside it with the same inputs_embeds")

    def get(self, key: str) -> Tensor | None:
        """What the reference gave, or ``None``."""
        return self.tensors.get(key)

    def input(self, key: str, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """An input as the reference's network got it, or ``None``."""
        value = self._inputs.get(f"in.{key}", self._inputs.get(key))
        return value.to(dtype) if value is not None and value.is_floating_point() else value

    def pictures(self) -> list[np.ndarray]:
        """The raw frames, or the one image; none where the file doesn't hold them."""
        frames, image = self._inputs.get("frames"), self._inputs.get("image")
        if frames is not None:
            return list(frames.numpy())
        return [] if image is None else [image.numpy()]

    def ids(self) -> tuple[Tensor, int]:
        """(1, L) ids of prompt and answer up to the last token that was an input, and how many were no answer."""
        asked, told = self.input("input_ids"), self.get("output_ids")
        assert asked is not None
        if told is None:
            return asked, 0
        prompt = asked[0]
        # some families generate from ids, and repeat them; [SEG]s in a prompt count there
        repeats = torch.equal(told[: len(prompt)], prompt)
        whole = told if repeats else torch.cat([prompt, told])
        return whole[None, :-1], 0 if repeats else len(prompt)


def _assert_close(found: Tensor, case: Case, key: str, atol: float = ATOL) -> None:
    expected = case.get(key)
    if expected is not None:
        assert found.numel() == expected.numel(), (key, found.shape, expected.shape)
        torch.testing.assert_close(
            found.reshape(expected.shape).float(), expected, atol=atol, rtol=0, msg=lambda text: f"{key}: {text}"
        )


def _language(network: Sa2VA, case: Case) -> Tensor:
    """Compare what the language model and the projector give; the embeddings of the answer's [SEG]s."""
    pixels, grid = case.input("pixel_values", network.dtype), case.input("image_grid_thw")
    tokens: Any = network.mllm.encode_image(pixels, *([] if grid is None else [grid]))
    if isinstance(tokens, Tensor):
        _assert_close(tokens, case, "vit_embeds")
    regions, raw = case.input("prompt_masks"), case.input("mask_prompts")
    if regions is None and raw is not None:
        regions = network.processor.regions(raw.numpy(), case.pictures()[0].shape[:2])
    if regions is not None:
        # features of the last tile, once more for each region
        last = tokens[-network.config.tokens_per_tile :]
        tokens = torch.cat([tokens, *(last[region.flatten() > 0] for region in regions)])
    ids, first = case.ids()
    asked = case.input("input_ids")
    assert asked is not None
    if case.get("inputs_embeds") is not None:
        _assert_close(network.mllm.embed(asked, tokens), case, "inputs_embeds")
    states = network.mllm.hidden_states(network.mllm.embed(ids, tokens), torch.ones_like(ids))
    _assert_close(states, case, "last_hidden_states")
    if case.get("logits") is not None:
        _assert_close(network.mllm.vocabulary_logits(states), case, "logits")
    segs = states[0, first:][ids[0, first:] == network.processor.seg_token_id]
    _assert_close(segs, case, "seg_hidden_states")
    embeddings: Tensor = network.text_hidden_fcs(segs)
    _assert_close(embeddings, case, "seg_embeds")
    return embeddings


def _grounding_pixels(case: Case, dtype: torch.dtype = torch.float32) -> Tensor | None:
    pixels, levels = case.input("g_pixel_values", dtype), case.input("g_uint8")
    if pixels is not None or levels is None:
        return pixels
    # the reference's constants are rounded to bfloat16
    mean, std = (torch.tensor(values).bfloat16().float().view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((levels.float() / 255 - mean) / std).to(dtype)


def _track(network: Sa2VA, pixels: Tensor, token: Tensor, prompted: int, bf16: bool) -> list[dict[str, Tensor]]:
    """Draw one object in all frames: the first ones by language, the others from the memory of them."""
    sam2 = network.grounding_encoder.sam2_model
    maps = sam2.image_features(pixels)
    bank, drawn = MemoryBank(max_conditioned=None), []
    for frame in range(len(pixels)):
        mine = [level[frame : frame + 1] for level in maps]
        if frame < prompted:
            found = sam2.decode(sam2.without_memory(mine), GroundingPrompts.of_language(token))
        else:
            conditioned = sam2.attend(mine[-1], bank.entries(frame))
            found = sam2.decode([*mine[:-1], conditioned], GroundingPrompts.empty(1))
        masks, _ = found.best()
        drawn.append(
            {
                "head_low_res": masks[0],
                "head_ious": found.iou_scores[0],
                "head_obj_scores": found.object_scores,
                "head_obj_ptrs": found.pointers[0],
            }
        )
        memory = sam2.remember(mine[-1], masks, found.object_scores, found.pointers)
        if bf16:
            memory = memory._replace(features=memory.features.bfloat16().to(memory.features.dtype))
        if frame < prompted:
            bank.condition(frame, memory)
        else:
            bank.add(frame, memory)
    return drawn


def _drawn(network: Sa2VA, case: Case, embeddings: Tensor, pixels: Tensor, bf16: bool) -> Mapping[str, Tensor]:
    """The mask head's every call in the reference's order: by [SEG], then by frame."""
    prompted = _prompted(case, pixels)
    calls = [call for token in embeddings for call in _track(network, pixels, token[None], prompted, bf16)]
    return {key: torch.stack([call[key] for call in calls]) for key in calls[0]}


@pytest.fixture(scope="session")
def as_the_reference_rounds(
    whole_checkpoint: Callable[[Path], tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], list[Mapping[str, Tensor]]]:
    """Case file -> what float32 draws by the reference's kernels and embeddings, by its memory's two types."""

    def draw(file: Path) -> list[Mapping[str, Tensor]]:
        if platform.machine().lower() not in ("x86_64", "amd64"):
            pytest.skip("the oracle's numbers were rounded by x86's AVX2, which this processor hasn't")
        made, sam2 = whole_checkpoint(file.parent)
        out = tmp_path_factory.mktemp("drawn")
        # a library chooses its kernels once in a process
        subprocess.run(
            [sys.executable, __file__, *map(str, (made, sam2, file, out))],
            # waiting threads sleep, for the sake of busy machines
            env={**os.environ, **KERNELS, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        return [load_file(out / name) for name in DRAWN]

    return draw


DRAWN = ("float32.safetensors", "bfloat16.safetensors")


@torch.no_grad()
def draw_by_these_kernels(checkpoint: str, sam2: str, file: str, out: str) -> None:
    """What :func:`as_the_reference_rounds` runs in a process of its own."""
    torch.set_num_threads(KERNEL_THREADS)
    network, case = Sa2VA.from_pretrained(checkpoint, sam2_config=sam2), Case(Path(file))
    embeddings, pixels = case.get("seg_embeds"), _grounding_pixels(case)
    assert embeddings is not None
    assert pixels is not None
    for name in DRAWN:
        drawn = _drawn(network, case, embeddings, pixels, bf16=name == DRAWN[1])
        save_file({key: value.contiguous() for key, value in drawn.items()}, Path(out) / name)


@torch.no_grad()
def test_case(
    case_file: Path,
    oracle_network: Callable[[Path, torch.dtype], Sa2VA],
    as_the_reference_rounds: Callable[[Path], list[Mapping[str, Tensor]]],
) -> None:
    precise, usual = (oracle_network(case_file.parent, dtype) for dtype in (torch.float64, torch.float32))
    case = Case(case_file)
    embeddings = _language(precise, case)
    pixels = _grounding_pixels(case, torch.float64)
    if pixels is None:
        # a case of the language model alone
        assert case.get("seg_embeds") is not None
        return
    # which way a memory is rounded to bfloat16 depends on the last bit of float32
    told = _language(usual, case)
    runs = [
        _drawn(precise, case, embeddings, pixels, bf16=False),
        _drawn(usual, case, told, pixels.float(), bf16=True),
    ]
    prompted, frames = _prompted(case, pixels), len(pixels)
    found, atol = _nearest(runs, case, prompted, frames)
    if _distance(found, case, slice(prompted), frames) > ATOL or _distance(found, case, slice(None), frames) > atol:
        found, atol = _nearest(as_the_reference_rounds(case_file), case, prompted, frames)
    # memory has no part in frames that are prompted
    for part, within in ((slice(prompted), ATOL), (slice(prompted, None), atol)):
        for key, value in found.items():
            _assert_part(_by_frame(value, frames), case, key, part, within)
        # the reference resizes in float32, whose coordinates are rounded, too
        low = _by_frame(found["head_low_res"].float(), frames)
        side = precise.config.grounding.image_size
        _assert_part(_resized(low, side, (side, side)), case, "mask_logits_sam_size", part, within)
        masks, expected = case.get("masks"), case.get("mask_logits_final")
        assert masks is not None
        final = _resized(low, side, tuple(masks.shape[-2:]))
        if expected is not None:
            expected = expected.float().reshape(final.shape)
            torch.testing.assert_close(final[:, part], expected[:, part], atol=within, rtol=RTOL_HALF)
        assert torch.equal(final[:, part] > 0, masks.reshape(final.shape)[:, part])
    _assert_close(low[:, :prompted], case, "low_res_logits_cond")


@pytest.mark.slow
def test_float32_by_the_references_kernels(
    case_file: Path, as_the_reference_rounds: Callable[[Path], list[Mapping[str, Tensor]]]
) -> None:
    """SAM2 gives the reference's very numbers, tracked frames included; other kernels are off by 2e-4 after eight."""
    case = Case(case_file)
    pixels = _grounding_pixels(case)
    if case.get("head_low_res") is None or pixels is None:
        pytest.skip(f"{case.name} holds no logits of SAM2")
    prompted, frames = _prompted(case, pixels), len(pixels)
    found, _ = _nearest(as_the_reference_rounds(case_file), case, prompted, frames)
    assert _distance(found, case, slice(None), frames) <= ATOL


def _nearest(
    by_memory: list[Mapping[str, Tensor]], case: Case, prompted: int, frames: int
) -> tuple[dict[str, Tensor], float]:
    """Of memory in float32 and in bfloat16 the one that a case was made with, and what frames drawn from it may be off.

    Nothing in a file says how its memory was kept; its numbers do. Prompted frames have no memory: they are those of
    whichever is nearer.
    """
    tolerances = dict(enumerate((ATOL, ATOL_BF16_MEMORY)))
    asked, tracked = slice(prompted), slice(prompted, None)
    shown, number = (
        min(tolerances, key=lambda kind, part=part: _distance(by_memory[kind], case, part, frames))
        for part in (asked, tracked)
    )
    joined = {}
    for key, value in by_memory[number].items():
        first, rest = _by_frame(by_memory[shown][key], frames)[:, asked], _by_frame(value, frames)[:, tracked]
        joined[key] = torch.cat([first.double(), rest.double()], dim=1).flatten(0, 1)
    return joined, tolerances[number]


def _prompted(case: Case, pixels: Tensor) -> int:
    """Number of frames that are drawn by language, not from memory: the first five, as in the reference."""
    conditioned = case.get("low_res_logits_cond")
    return min(5, len(pixels)) if conditioned is None else conditioned.shape[1]


def _by_frame(calls: Tensor, frames: int) -> Tensor:
    """(objects, frames, ...) of the mask head's calls."""
    return calls.unflatten(0, (-1, frames))


def _resized(low: Tensor, side: int, size: tuple[int, ...]) -> Tensor:
    """Logits (objects, frames, h, w) in another size."""
    return upsample_mask_logits(low.flatten(0, 1), side, (size[0], size[1])).reshape(*low.shape[:2], *size)


def _assert_part(found: Tensor, case: Case, key: str, part: slice, atol: float) -> None:
    """Compare some frames of (objects, frames, ...)."""
    expected = case.get(key)
    if expected is not None:
        torch.testing.assert_close(
            found[:, part].float(),
            expected.reshape(found.shape)[:, part],
            atol=atol,
            rtol=0,
            msg=lambda text: f"{key}: {text}",
        )


def _distance(found: Mapping[str, Tensor], case: Case, part: slice, frames: int) -> float:
    """How far the low-resolution logits of some frames are from a case's; 0 where it has none."""
    expected = case.get("head_low_res")
    if expected is None:
        return 0.0
    apart = _by_frame((found["head_low_res"].reshape(expected.shape) - expected).abs(), frames)[:, part]
    return float(apart.max()) if apart.numel() else 0.0


if __name__ == "__main__":
    draw_by_these_kernels(*sys.argv[1:])
