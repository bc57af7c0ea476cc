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

"""Segmenter and Segmentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import LoadImage
from PIL import Image

from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmentation, Segmenter
from monai_sa2va.transforms.intensity import Window
from monai_sa2va.transforms.planes import ToPlane
from monai_sa2va.writers.results import write_results

PROMPTS = ["Segment the vessels.", "optic disc"]
LPS = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
CODES = ["RAS", "LPS", "LAI", "PIR", "SRA", "ASL"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Sa2VA("tiny", seed=0), device="cpu")


def _affine(code: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Of a volume stored in this orientation, with unequal spacings and an origin."""
    ornt = nib.orientations.axcodes2ornt(tuple(code))
    affine = np.diag([0.5, 2.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(ornt, shape)
    affine[:3, 3] += [10.0, -20.0, 30.0]
    return affine


def _volume(code: str, shape: tuple[int, int, int] = (5, 6, 3)) -> np.ndarray:
    return np.random.default_rng(CODES.index(code)).normal(50, 200, shape).astype(np.int16)


@pytest.mark.parametrize("code", CODES)
def test_volume_masks_are_those_of_its_slices(segmenter: Segmenter, tmp_path: Path, code: str) -> None:
    """The whole way by file agrees with taking, segmenting and putting back one slice at a time."""
    values = _volume(code)
    affine = _affine(code, values.shape)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    found = segmenter.segment(path, PROMPTS)
    assert found.labels == ["vessels", "optic disc"]
    assert found.masks.ndim == 4

    volume = LoadImage(image_only=True, ensure_channel_first=True)(path)
    windowed = Window("percentile")(volume)
    expected = np.zeros((2, *values.shape), dtype=bool)
    for index in range(found.masks.shape[1]):
        take = ToPlane("axial", index)
        plane = take(windowed)
        masks = segmenter.inferer(plane.as_tensor().expand(3, -1, -1), segmenter.network, PROMPTS).masks
        back = take.inverse(MetaTensor(masks).copy_meta_from(plane))
        expected |= back.numpy().astype(bool)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(found.on_source_grid(), expected)


@given(code=st.sampled_from(CODES), data=st.data())
def test_affine_places_mask_voxels_where_the_source_has_them(segmenter: Segmenter, code: str, data: Any) -> None:
    shape = (3, 4, 2)
    affine = _affine(code, shape)
    found = _blank(segmenter, code, shape)
    d, h, w = (data.draw(st.integers(0, n - 1)) for n in found.masks.shape[1:])
    masks = np.zeros_like(found.masks)
    masks[0, d, h, w] = True
    voxel = np.argwhere(replace(found, masks=masks).on_source_grid()[0])
    assert voxel.shape == (1, 3)
    ras = affine @ [*voxel[0], 1]
    assert found.affine is not None
    np.testing.assert_allclose(found.affine @ [w, h, d, 1], ras * [-1, -1, 1, 1], atol=1e-6)
    # radiological display: columns to the patient's left, rows to posterior
    assert found.affine[0, 0] > 0
    assert found.affine[1, 1] > 0


_BLANKS: dict[tuple[str, tuple[int, int, int]], Segmentation] = {}


def _blank(segmenter: Segmenter, code: str, shape: tuple[int, int, int]) -> Segmentation:
    """One segmentation an orientation, as hypothesis draws many voxels of each."""
    if (code, shape) not in _BLANKS:
        image = MetaTensor(torch.zeros(1, *shape), affine=torch.as_tensor(_affine(code, shape)))
        _BLANKS[code, shape] = segmenter.segment(image, "vessels")
    return _BLANKS[code, shape]


def test_slices_stand_in_the_sources_order(segmenter: Segmenter) -> None:
    """Bright in one stored slice only: there, whichever way the axis points."""
    for code in ("RAS", "RAI"):
        values = torch.zeros(1, 4, 5, 6)
        values[..., 1] = 100.0
        ornt = nib.orientations.axcodes2ornt(tuple(code))
        affine = nib.orientations.inv_ornt_aff(ornt, (4, 5, 6))
        image = MetaTensor(values, affine=torch.as_tensor(affine))
        masks = segmenter.segment(image, "vessels").masks[0]
        dark = [masks[index] for index in (0, 2, 3, 4, 5)]
        assert all(np.array_equal(dark[0], other) for other in dark)
        bright = segmenter.segment(np.full((5, 4), 255, np.uint8), "vessels").masks[0]
        np.testing.assert_array_equal(masks[1], bright)


def test_a_volume_is_told_with_scores_progress_and_its_best_slice(segmenter: Segmenter) -> None:
    values = torch.as_tensor(_volume("RAS", (6, 7, 5)))[None].float()
    steps: list[tuple[int, int]] = []
    image = MetaTensor(values, affine=torch.eye(4))
    found = segmenter.segment(image, PROMPTS, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert found.slice_index == int(found.masks.sum((0, 2, 3)).argmax())
    assert found.picture.shape == (7, 6, 3)
    assert found.picture.dtype == np.uint8
    assert found.text == "Sure, <p>vessels</p> [SEG].\nSure, <p>optic disc</p> [SEG]."


def test_presence_of_a_volume_is_that_of_its_surest_slice(segmenter: Segmenter) -> None:
    # a fixed window, so that a slice alone is shown as in its volume
    fixed = Segmenter(segmenter.network, device="cpu", window={"kind": "range", "lower": -500, "upper": 600})
    values = torch.as_tensor(_volume("RAS", (6, 7, 3)))[None].float()
    whole = fixed.segment(MetaTensor(values, affine=torch.eye(4)), PROMPTS)
    slices = [fixed.segment(MetaTensor(values[..., i : i + 1], affine=torch.eye(4)), PROMPTS) for i in range(3)]
    np.testing.assert_array_equal(whole.scores, np.max([one.scores for one in slices], axis=0))
    np.testing.assert_array_equal(whole.masks, np.concatenate([one.masks for one in slices], axis=1))
    assert whole.scores.dtype == np.float32


def test_a_picture_by_any_door_has_the_same_masks(segmenter: Segmenter, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    array = rng.integers(0, 256, (20, 31, 3)).astype(np.uint8)
    alpha = np.dstack([array, rng.integers(0, 256, (20, 31)).astype(np.uint8)])
    Image.fromarray(array).save(tmp_path / "a.png")
    Image.fromarray(array).save(tmp_path / "a.tif")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    expected = segmenter.inferer(array, segmenter.network, PROMPTS).masks.numpy()
    tensor = MetaTensor(torch.from_numpy(array.transpose(2, 1, 0).copy()))
    for image in (
        array,
        Image.fromarray(array),
        Image.fromarray(alpha),
        tmp_path / "a.png",
        str(tmp_path / "a.tif"),
        tmp_path / "alpha.png",
        tensor,
    ):
        found = segmenter.segment(image, PROMPTS)
        np.testing.assert_array_equal(found.masks, expected)
        np.testing.assert_array_equal(found.picture, array)
        np.testing.assert_array_equal(found.on_source_grid(), expected.swapaxes(1, 2))
        assert found.affine is None
        assert found.slice_index is None
        assert found.prompts == PROMPTS


def test_sixteen_bits_and_windows(segmenter: Segmenter, tmp_path: Path) -> None:
    deep = np.random.default_rng(2).integers(0, 4096, (12, 16)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    by_file = segmenter.segment(tmp_path / "deep.png", "vessels")
    by_array = segmenter.segment(deep, "vessels")
    np.testing.assert_array_equal(by_file.masks, by_array.masks)
    # percentiles spread the 12 bits in use; the whole range of 16 bits leaves them dark
    assert by_file.picture.max() == 255
    dark = Segmenter(segmenter.network, device="cpu", window="dtype").segment(deep, "vessels")
    assert dark.picture.max() == round(int(deep.max()) / 257)


class _Marks(ImageInferer):
    """Masks where a picture is brighter than half."""

    def __call__(self, inputs: Any, *_: Any) -> ImageResult:
        masks, one = torch.as_tensor(inputs)[:1] > 127, torch.ones(1)
        return ImageResult(masks, ["bright"], [0], one, one, ["Sure."], [["bright"]])


@given(
    code=st.sampled_from(CODES),
    axis=st.sampled_from(["auto", "axial", "coronal", "sagittal", 0, -1]),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    thick=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_masks_go_back_along_any_axis(
    segmenter: Segmenter, code: str, axis: int | str, shape: tuple[int, int, int], thick: int, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 2, shape).astype(np.uint8) * 255
    affine = _affine(code, shape)
    affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
    affine[:3, thick] *= 3
    image = MetaTensor(torch.from_numpy(values)[None], affine=torch.as_tensor(affine))
    found = Segmenter(segmenter.network, device="cpu", inferer=_Marks(), axis=axis).segment(image, "bright")
    np.testing.assert_array_equal(found.on_source_grid()[0], values > 127)
    if axis == "auto" and min(shape) > 1:
        assert found.masks.shape[1] == shape[thick]
    # and their affine places them where they are
    assert found.affine is not None
    for mask in np.argwhere(found.masks[0])[:5]:
        d, h, w = mask
        ras = found.affine @ [w, h, d, 1] * [-1, -1, 1, 1]
        assert values[tuple(np.rint(np.linalg.inv(affine) @ ras)[:3].astype(int))] == 255


def test_a_radiograph_is_one_plane_and_sagittal_slices_are_whole(segmenter: Segmenter, tmp_path: Path) -> None:
    coronal = np.array([[-0.2, 0, 0, 0], [0, 0, 1, 0], [0, 0.2, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.ones((30, 26, 1), np.int16), coronal), tmp_path / "xray.nii.gz")
    sagittal = np.array([[0, 0, 4.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.ones((16, 14, 7), np.int16), sagittal), tmp_path / "mr.nii.gz")
    marks = Segmenter(segmenter.network, device="cpu", inferer=_Marks())
    xray = marks.segment(tmp_path / "xray.nii.gz", "bright")
    assert (xray.masks.shape, xray.slice_index) == ((1, 1, 26, 30), 0)
    assert xray.on_source_grid().shape == (1, 30, 26, 1)
    assert marks.segment(tmp_path / "mr.nii.gz", "bright").masks.shape == (1, 7, 14, 16)
    axial = Segmenter(segmenter.network, device="cpu", inferer=_Marks(), axis="axial")
    assert axial.segment(tmp_path / "mr.nii.gz", "bright").masks.shape == (1, 14, 16, 7)


def test_a_plane_of_nifti_keeps_its_place(segmenter: Segmenter, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 6), np.uint8), np.diag([0.5, 2.0, 1.0, 1.0])), tmp_path / "a.nii")
    found = segmenter.segment(tmp_path / "a.nii", "vessels")
    assert found.masks.shape == (1, 6, 4)
    np.testing.assert_array_equal(found.affine, np.diag([-0.5, -2.0, 1.0, 1.0]))
    assert found.on_source_grid().shape == (1, 4, 6)


def test_one_pixel(segmenter: Segmenter) -> None:
    assert segmenter.segment(np.array([[7]], np.uint8), "vessels").masks.shape == (1, 1, 1)


class _Talks(ImageInferer):
    """Chats: one object a slice where asked for something, none where asked for a cyst."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def __call__(self, inputs: Any, network: Any, asked: Any, mode: str = "", replies: Any = None) -> ImageResult:
        assert mode == "chat"
        self.given.append(replies)
        count = sum("cyst" not in text for text in asked)
        masks = (torch.as_tensor(inputs)[:1] > 127).expand(count, -1, -1)
        answers = ["There is no cyst." if "cyst" in text else "[SEG]" for text in asked]
        numbers = [i for i, text in enumerate(asked) if "cyst" not in text]
        one = torch.full((count,), 0.5)
        return ImageResult(masks, ["bright"] * count, numbers, one, one, answers, [[]], ["said"], 0.25)


def test_a_chat_about_a_volume_is_about_its_middle_slice(segmenter: Segmenter) -> None:
    values = torch.zeros(1, 4, 5, 3)
    values[..., 2] = 255.0
    talks = _Talks()
    image = MetaTensor(values, affine=torch.eye(4))
    chatting = Segmenter(segmenter.network, device="cpu", inferer=talks)
    found = chatting.segment(image, ["Is there a cyst?", "What is bright?"], mode="chat")
    assert talks.given == [None, ["said"], ["said"]]
    assert found.masks.shape == (1, 3, 5, 4)
    assert found.masks[0].any(axis=(1, 2)).tolist() == [False, False, True]
    assert found.text == "There is no cyst.\n[SEG]"
    assert (found.labels, found.prompts, found.answers) == (["bright"], ["What is bright?"], ["[SEG]"])
    assert found.presence_threshold == 0.25
    with pytest.raises(ConfigError, match="mode is 'talk'"):
        chatting.segment(image, "vessels", mode="talk")


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_a_chat_may_end_without_any_mask(segmenter: Segmenter, shape: tuple[int, ...], tmp_path: Path) -> None:
    chatting = Segmenter(segmenter.network, device="cpu", inferer=_Talks())
    image = MetaTensor(torch.zeros(1, *shape), affine=torch.eye(4))
    found = chatting.segment(image, "Is there a cyst?", mode="chat")
    assert found.masks.shape == (0, *((3,) if len(shape) == 3 else ()), 4, 5)
    assert found.masks.dtype == bool
    assert found.on_source_grid().shape == (0, *shape)
    assert (found.labels, found.scores.shape, found.text) == ([], (0,), "There is no cyst.")
    written = write_results(found, tmp_path / "out" / "a")
    assert written.files == ("overview.png", "report.json")
    report = json.loads((tmp_path / "out" / "a" / "report.json").read_text())
    assert (report["objects"], report["text"]) == ([], "There is no cyst.")


def test_clicks_are_voxels_of_the_masks(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = segmenter.stack_inferer

    def inferer(pictures: Any, network: Any, sentence: Any, shown: Any, first: Any, progress: Any) -> Any:
        seen.append((sentence, shown, first))
        return original(pictures, network, sentence, shown, first, progress)

    monkeypatch.setattr(segmenter, "stack_inferer", inferer)
    # a volume whose slices have 6 columns and 7 rows
    image = MetaTensor(torch.as_tensor(_volume("RAS", (6, 7, 5)))[None].float(), affine=torch.eye(4))
    found = segmenter.segment(image, points=[[5, 6, 4, 1], [0, 0, 4, 0]], boxes=[0, 0, 1, 5, 6, 1])
    assert found.masks.shape == (1, 5, 7, 6)
    assert found.labels == ["object"]
    assert found.text == ""
    ((sentence, shown, first),) = seen
    assert sentence is first is None
    assert list(shown) == [1, 4]
    np.testing.assert_array_equal(shown[4].points, [[5, 6, 1], [0, 0, 0]])
    np.testing.assert_array_equal(shown[1].box, [0, 0, 5, 6])
    with pytest.raises(PromptError, match="a point has x 6, outside of 0 to 5"):
        segmenter.segment(image, points=[[6, 0, 0, 1]])


def test_a_picture_is_corrected(segmenter: Segmenter) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    plain = segmenter.segment(picture, "Segment the vessels.")
    same = segmenter.segment(picture, "Segment the vessels.", points=[])
    clicked = segmenter.segment(picture, "Segment the vessels.", points=[[29, 19, 1]], mask=plain.masks[0])
    np.testing.assert_array_equal(plain.masks, same.masks)
    assert clicked.masks.shape == plain.masks.shape
    assert clicked.labels == plain.labels == ["vessels"]
    assert clicked.scores != plain.scores


def test_sentences_are_carried_from_a_slice(segmenter: Segmenter) -> None:
    image = MetaTensor(torch.as_tensor(_volume("RAS", (6, 7, 4)))[None].float(), affine=torch.eye(4))
    found = segmenter.segment(image, PROMPTS, from_slice=1)
    alone = [segmenter.segment(image, prompt, from_slice=1) for prompt in PROMPTS]
    assert found.labels == [name for each in alone for name in each.labels]
    assert found.prompts == PROMPTS
    assert found.text == "\n".join(each.text for each in alone)
    np.testing.assert_array_equal(found.masks, np.concatenate([each.masks for each in alone]))
    everywhere = segmenter.segment(image, PROMPTS)
    np.testing.assert_array_equal(found.masks[:, 1], everywhere.masks[:, 1])


def test_what_cannot_be_shown(segmenter: Segmenter) -> None:
    picture = np.zeros((4, 5), np.uint8)
    with pytest.raises(PromptError, match="no prompt and nothing shown"):
        segmenter.segment(picture)
    with pytest.raises(ConfigError, match="mode is 'chat', which takes sentences alone"):
        segmenter.segment(picture, "vessels", mode="chat", points=[[0, 0, 1]])
    with pytest.raises(PromptError, match="give one prompt, and no from_slice"):
        segmenter.segment(picture, PROMPTS, points=[[0, 0, 1]])
    with pytest.raises(PromptError, match="slice 1 is not there; the stack has 1"):
        segmenter.segment(picture, "vessels", from_slice=1)


def test_bad_input_is_refused_before_any_work(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        segmenter.segment(tmp_path / "missing.png", " ")
    with pytest.raises(DataError, match="there is no file"):
        segmenter.segment(tmp_path / "missing.png", "vessels")
    holed = MetaTensor(torch.tensor([[[1.0, float("nan")]]]))
    with pytest.raises(DataError, match="NaN"):
        segmenter.segment(holed, "vessels")
    palette = Image.new("P", (4, 4))
    with pytest.raises(DataError, match="mode P"):
        segmenter.segment(palette, "vessels")


def test_bad_arguments() -> None:
    network = Sa2VA("tiny", seed=0)
    with pytest.raises(ConfigError, match="device is 'gpu'"):
        Segmenter(network, device="gpu")
    with pytest.raises(ConfigError, match="amp and inferer"):
        Segmenter(network, device="cpu", amp=True, inferer=ImageInferer())
    with pytest.raises(ConfigError, match="window is 'x'"):
        Segmenter(network, device="cpu", window="x")
    with pytest.raises(ConfigError, match="axis is 'x'; allowed: auto, axial, coronal, sagittal, or a source axis"):
        Segmenter(network, device="cpu", axis="x")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is 'cuda', but 0 CUDA devices"):
            Segmenter(network, device="cuda")


def test_context_first5_is_the_references_way_through_a_volume(segmenter: Segmenter) -> None:
    values = torch.as_tensor(_volume("RAS", (6, 7, 7)))[None].float()
    image = MetaTensor(values, affine=torch.eye(4))
    found = segmenter.segment(image, PROMPTS, context="first5")
    assert found.masks.shape == (2, 7, 7, 6)
    assert found.labels == ["vessels", "optic disc"]
    assert found.text == "Sure, <p>vessels</p> [SEG].\nSure, <p>optic disc</p> [SEG]."
    frames = segmenter.segment(image, PROMPTS)
    assert (found.masks[:, 5:] != frames.masks[:, 5:]).any()
    picture = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ConfigError, match="context is 'last5'; allowed: sweep, uniform, first5"):
        segmenter.segment(picture, "vessels", context="last5")
    with pytest.raises(ConfigError, match="context is 'first5', which takes sentences alone"):
        segmenter.segment(picture, "vessels", context="first5", points=[[1, 1, 1]])
