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

"""The engine of the bundle's evaluation, with an inferer that reads its masks off the image's grey values."""

from __future__ import annotations

import csv
import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.groups import number_groups
from monai_sa2va.engines.case_evaluator import CaseEvaluator
from monai_sa2va.errors import ConfigError, DataError, OutputError
from monai_sa2va.inferers.image import ImageInferer, ImageResult
from monai_sa2va.metrics.summary import Summary
from monai_sa2va.networks.sa2va import Sa2VA

GREY = {"liver": 200, "cyst": 100, "spleen": 50}


class _Grey(ImageInferer):
    """Finds each structure where the picture has its grey value."""

    def __call__(self, inputs: Any, network: Any, prompts: Any, phrases: Any = None) -> ImageResult:
        names = [prompt.removeprefix("Segment the ").removesuffix(".") for prompt in prompts]
        masks = torch.stack([(inputs[0] - GREY[name]).abs() < 1 for name in names])
        ones = torch.ones(len(names))
        order = list(range(len(names)))
        return ImageResult(masks, names, order, ones, ones, ["Sure."] * len(names), [[name] for name in names])


@pytest.fixture(scope="module")
def network(micro_config: Sa2VAConfig) -> Sa2VA:
    return Sa2VA(micro_config, seed=0)


@pytest.fixture
def evaluator(network: Sa2VA, tmp_path: Path) -> Callable[..., CaseEvaluator]:
    def make(entries: list[dict[str, Any]], **options: Any) -> CaseEvaluator:
        loader = DataLoader(Dataset(number_groups(entries)), batch_size=2, collate_fn=list)
        options = {"inferer": _Grey(), "output_dir": tmp_path / "out", "window": "dtype", **options}
        return CaseEvaluator("cpu", loader, network, **options)

    return make


def _square(column: int = 1, value: int = 1, size: tuple[int, int] = (8, 9)) -> np.ndarray:
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[1:4, column : column + 3] = value
    return pixels


def _save(folder: Path, name: str, pixels: np.ndarray) -> str:
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name)


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    """Found, one column off, missed, found though not there, damaged."""
    images, labels = tmp_path / "Doe_Jane", tmp_path / "labels"
    liver = {"1": ["liver", "the large organ"]}
    found = [
        {
            "image": _save(images, name, _square(value=GREY[shows]) if shows else _square(value=0)),
            "label": _save(labels, name, _square(column)),
            "prompts": liver,
            "patient": patient,
        }
        for name, shows, column, patient in (
            ("a.png", "liver", 1, "Jane"),
            ("b.png", "liver", 2, "Jane"),
            ("c.png", "", 1, "Joe"),
        )
    ]
    cyst = {"image": _save(images, "d.png", _square(value=100)), "prompts": {}, "absent": ["cyst"], "patient": "Jim"}
    torn = {**found[0], "image": str(images / "e.png")}
    Path(torn["image"]).write_bytes(b"torn")
    return [*found, cyst, torn]


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_object_is_a_row(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        evaluator(entries, surface_tolerance=0.5).run()
    rows = _table(tmp_path / "out")
    shown = [(r["case"], r["image"], r["group"], r["prompt"], r["status"], r["truth_voxels"]) for r in rows]
    assert shown == [
        ("1", "a.png", "1", "liver", "done", "9"),
        ("2", "b.png", "1", "liver", "done", "9"),
        ("3", "c.png", "2", "liver", "done", "9"),
        ("4", "d.png", "3", "cyst", "done", "0"),
        ("5", "e.png", "1", "liver", "failed", ""),
    ]
    # of 3 x 3 pixels, 2 x 3 are shared by masks one column apart
    assert [row["dice"] for row in rows] == ["1.0", "0.666667", "0.0", "0.0", ""]
    assert [row["iou"] for row in rows] == ["1.0", "0.5", "0.0", "0.0", ""]
    assert [row["recall"] for row in rows] == ["1.0", "0.666667", "0.0", "0.0", ""]
    # 4 of 8 pixels of either outline lie on the other's
    assert [row["surface_dice"] for row in rows] == ["1.0", "0.5", "0.0", "0.0", ""]
    assert [row["hd95"] for row in rows] == ["0.0", "1.0", "", "", ""]
    assert [row["unit"] for row in rows] == ["pixel", "pixel", "pixel", "pixel", ""]
    assert [row["false_empty"] for row in rows] == ["0", "0", "1", "0", ""]
    assert [row["false_positive"] for row in rows] == ["0", "0", "0", "1", ""]
    assert rows[4]["error"].startswith("[DATA] e.png can't be read")
    assert [row["error"] for row in rows[:4]] == [""] * 4

    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["cases"] == {"total": 5, "scored": 4, "failed": 1}
    assert report["groups"] == 3
    assert report["settings"]["surface_tolerance"] == 0.5
    overall = report["overall"]
    assert overall["scores"]["dice"]["mean"] == pytest.approx(5 / 9)
    # resamples of patients with a structure that is there: both Jane, both Joe, or one each
    assert overall["scores"]["dice"]["low"] == 0.0
    assert overall["scores"]["dice"]["high"] == pytest.approx(5 / 6)
    assert overall["scores"]["hd95_pixel"]["mean"] == 0.5
    assert overall["scores"]["hd95_pixel"]["excluded"] == 1
    assert (overall["false_empty"]["count"], overall["false_empty"]["of"]) == (1, 3)
    assert (overall["false_positive"]["count"], overall["false_positive"]["of"]) == (1, 1)
    assert "evaluated 4 images, 1 failed" in caplog.text
    assert "dice 0.556 (0.000 to 0.833) (3 objects)" in caplog.text

    # who the patients are is said nowhere, neither by their field nor by a folder's name
    written = caplog.text.replace(str(tmp_path), "") + "".join(
        p.read_text() for p in (tmp_path / "out").glob("*.[cj]s*")
    )
    for name in ("Jane", "Joe", "Jim", "Doe"):
        assert name not in written


def test_the_picture_shows_best_median_and_worst(
    evaluator: Callable[..., CaseEvaluator], entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    evaluator(entries).run()
    with Image.open(tmp_path / "out" / "cases.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    side, height = round(9 * 256 / 8), 256 + 44
    assert pixels.shape == (3 * height, 3 * side + 8, 3)
    colour = np.array([255, 99, 71])
    outlined = [
        [
            bool((pixels[row * height + 44 : (row + 1) * height, left : left + side] == colour).all(axis=2).any())
            for left in (0, side + 4, 2 * (side + 4))
        ]
        for row in range(3)
    ]
    # the image, what is predicted, what is true: a, b, and c, of which nothing was found
    assert outlined == [[False, True, True], [False, True, True], [False, False, True]]


def test_volumes_are_measured_in_mm_on_their_own_grid(
    evaluator: Callable[..., CaseEvaluator], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # stored towards the left and the feet, and cut across its thick axis, y
    affine = np.array([[-2.0, 0, 0, 9], [0, 7.0, 0, -3], [0, 0, -3.0, 5], [0, 0, 0, 1]])
    image, label = np.zeros((8, 4, 6), np.uint8), np.zeros((8, 4, 6), np.uint8)
    image[2, 1, 2], label[3, 1, 2] = GREY["liver"], 1  # 2 mm apart
    image[5, 2, 4], label[5, 2, 3] = GREY["cyst"], 2  # 3 mm apart
    image[6, 0, 1], label[6, 1, 1] = GREY["spleen"], 3  # 7 mm apart, in another slice
    for name, values in (("i", image), ("l", label)):
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    prompts = {"1": ["liver"], "2": ["cyst"], "3": ["spleen"]}
    entry = {"image": str(tmp_path / "i.nii.gz"), "label": str(tmp_path / "l.nii.gz"), "prompts": prompts}
    evaluator([entry], surface_tolerance=2.5).run()
    rows = _table(tmp_path / "out")
    assert [(row["prompt"], row["hd95"], row["surface_dice"], row["unit"]) for row in rows] == [
        ("liver", "2.0", "1.0", "mm"),
        ("cyst", "3.0", "0.0", "mm"),
        ("spleen", "7.0", "0.0", "mm"),
    ]
    assert (tmp_path / "out" / "cases.png").is_file()
    assert "no picture" not in caplog.text


@pytest.mark.parametrize(("unit", "hd95", "within"), [("micron", 0.002, "1.0"), ("meter", 2000.0, "0.0")])
def test_volumes_in_another_unit_are_measured_in_mm(
    evaluator: Callable[..., CaseEvaluator], tmp_path: Path, unit: str, hd95: float, within: str
) -> None:
    image, label = np.zeros((8, 4, 6), np.uint8), np.zeros((8, 4, 6), np.uint8)
    image[2, 1, 2], label[3, 1, 2] = GREY["liver"], 1  # 2 units apart
    for name, values in (("i", image), ("l", label)):
        volume = nib.Nifti1Image(values, np.diag([2.0, 7.0, 3.0, 1.0]))
        volume.header.set_xyzt_units(unit)
        nib.save(volume, tmp_path / f"{name}.nii.gz")
    prompts = {"1": ["liver"]}
    entry = {"image": str(tmp_path / "i.nii.gz"), "label": str(tmp_path / "l.nii.gz"), "prompts": prompts}
    evaluator([entry], surface_tolerance=0.01).run()
    (row,) = _table(tmp_path / "out")
    assert float(row["hd95"]) == pytest.approx(hd95, rel=1e-6)
    assert (row["surface_dice"], row["unit"]) == (within, "mm")


def test_masks_of_one_name_are_one_object(evaluator: Callable[..., CaseEvaluator], tmp_path: Path) -> None:
    label = _square()
    label[1:4, 5:8] = 2
    image = (label > 0).astype(np.uint8) * GREY["liver"]
    entry = {
        "image": _save(tmp_path, "i.png", image),
        "label": _save(tmp_path, "l.png", label),
        "prompts": {"1": ["liver"], "2": ["liver"], "3": ["spleen"]},
    }
    evaluator([entry]).run()
    rows = _table(tmp_path / "out")
    # a value that the label lacks is a structure that isn't there
    assert [(r["prompt"], r["truth_voxels"], r["dice"]) for r in rows] == [
        ("liver", "18", "1.0"),
        ("spleen", "0", "1.0"),
    ]


def test_absent_phrases_are_asked_for_on_demand(
    evaluator: Callable[..., CaseEvaluator], entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    entry = {**entries[0], "absent": ["cyst"]}
    evaluator([entry]).run()
    assert [row["prompt"] for row in _table(tmp_path / "out")] == ["liver", "cyst"]
    evaluator([entry], include_absent=False, summary=Summary(seed=5)).run()
    assert [row["prompt"] for row in _table(tmp_path / "out")] == ["liver"]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["settings"]["include_absent"], report["settings"]["seed"]) == (False, 5)
    with pytest.raises(DataError, match=r"d\.png has nothing to ask for"):
        evaluator([entries[3]], include_absent=False).run()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label": None}, "has prompts and no label"),
        ({"label": "wide.png"}, "shape 9 x 8 of the image is not 12 x 8"),
        ({"label": "colour.png"}, "is a colour picture"),
        ({"label": "gone.png"}, "there is no file 'gone.png'"),
        ({"prompts": {"1": ["tissue without liver"]}}, "what not to segment"),
    ],
)
def test_a_case_that_fails_leaves_the_others(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    change: dict[str, Any],
    match: str,
) -> None:
    _save(tmp_path, "wide.png", _square(size=(8, 12)))
    _save(tmp_path, "colour.png", np.random.default_rng(0).integers(0, 9, (8, 9, 3)).astype(np.uint8))
    if change.get("label"):
        change = {"label": str(tmp_path / change["label"])}
    evaluator([{**entries[0], **change}, entries[1]]).run()
    first, second = _table(tmp_path / "out")
    assert (first["status"], second["status"]) == ("failed", "done")
    assert match in first["error"]
    assert str(tmp_path) not in first["error"]


def test_a_fault_of_the_program_is_a_row_without_its_text(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = evaluator(entries[:2])
    segment = engine.segmenter.segment

    def faulty(image: str, *arguments: Any) -> Any:
        if image.endswith("a.png"):
            raise IndexError(image)
        return segment(image, *arguments)

    monkeypatch.setattr(engine.segmenter, "segment", faulty)
    with caplog.at_level(logging.DEBUG):
        engine.run()
    rows = _table(tmp_path / "out")
    assert rows[0]["error"] == "a.png failed by a IndexError; log at level DEBUG to see where"
    assert rows[1]["status"] == "done"
    assert "in faulty" in caplog.text
    assert "Doe_Jane" not in caplog.text


def test_a_run_without_any_score_fails_and_says_so(
    evaluator: Callable[..., CaseEvaluator], entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none of 1 images could be evaluated, the first because: .*e\.png can't"):
        evaluator([entries[4]]).run()
    assert [row["status"] for row in _table(tmp_path / "out")] == ["failed"]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["cases"] == {"total": 1, "scored": 0, "failed": 1}
    assert not (tmp_path / "out" / "cases.png").exists()


def test_an_interrupted_run_leaves_what_it_has(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = evaluator(entries)
    segment = engine.segmenter.segment

    def interrupted(image: str, *arguments: Any) -> Any:
        if image.endswith("c.png"):
            raise KeyboardInterrupt
        return segment(image, *arguments)

    monkeypatch.setattr(engine.segmenter, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert [row["image"] for row in _table(tmp_path / "out")] == ["a.png", "b.png"]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["cases"] == {"total": 5, "scored": 2, "failed": 0}


def test_a_terminated_run_leaves_what_it_has(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator(entries[:1]).run()
    engine = evaluator(entries[1:])
    segment = engine.segmenter.segment

    def terminated(image: str, *arguments: Any) -> Any:
        if image.endswith("c.png"):
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, "the signal would kill the tests"
            # what the run before left is still there
            assert (tmp_path / "out" / "cases.png").is_file()
            assert [row["image"] for row in _table(tmp_path / "out")] == ["a.png"]
            signal.raise_signal(signal.SIGTERM)
        return segment(image, *arguments)

    monkeypatch.setattr(engine.segmenter, "segment", terminated)
    with pytest.raises(SystemExit) as ended:
        engine.run()
    assert ended.value.code == 143
    assert [row["image"] for row in _table(tmp_path / "out")] == ["b.png"]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["cases"] == {"total": 4, "scored": 1, "failed": 0}
    # the picture of the first run is no picture of this one
    assert not (tmp_path / "out" / "cases.png").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_ends_before_its_first_case_leaves_earlier_results(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator(entries[:1]).run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    engine = evaluator(entries[1:])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.segmenter, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_run_is_complete_without_failures(
    evaluator: Callable[..., CaseEvaluator], entries: list[dict[str, Any]]
) -> None:
    engine = evaluator([{**entries[0], "image": entries[0]["image"].replace("a.png", "gone.png")}, *entries])
    engine.run()
    with pytest.raises(DataError, match=r"^\[DATA\] 2 of 6 cases failed, see cases\.csv$"):
        engine.check_complete()
    engine = evaluator(entries[:2])
    engine.run()
    engine.check_complete()


def test_earlier_results_are_replaced_or_kept(
    evaluator: Callable[..., CaseEvaluator], entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    evaluator(entries[:1]).run()
    before = (tmp_path / "out" / "cases.csv").read_bytes()
    with pytest.raises(OutputError, match=r"holds results already \(cases\.csv\)"):
        evaluator(entries[:2], overwrite=False).run()
    assert (tmp_path / "out" / "cases.csv").read_bytes() == before
    with pytest.raises(DataError, match="none of 1 images"):
        evaluator(entries[4:]).run()
    # the picture of the first run is no picture of this one
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cases.csv", "metrics.json"]


def test_a_picture_that_fails_costs_no_scores(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = evaluator(entries[:1])
    engine.add_event_handler("ITERATION_COMPLETED", lambda: Path(entries[0]["image"]).unlink())
    engine.run()
    assert "no picture of cases: [DATA] there is no file 'a.png'" in caplog.text
    assert [row["dice"] for row in _table(tmp_path / "out")] == ["1.0"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["overall"]["scores"]["dice"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("error", "changed"),
    [
        (ConfigError, {"question": "Segment it."}),
        (ConfigError, {"question": "Segment {} and {}."}),
        (ConfigError, {"surface_tolerance": -1.0}),
        (ConfigError, {"window": "x"}),
        (ConfigError, {"axis": "x"}),
    ],
)
def test_bad_arguments(
    evaluator: Callable[..., CaseEvaluator],
    entries: list[dict[str, Any]],
    error: type[Exception],
    changed: dict[str, Any],
) -> None:
    with pytest.raises(error):
        evaluator(entries, **changed)


def test_entries_have_to_be_numbered(network: Sa2VA, entries: list[dict[str, Any]], tmp_path: Path) -> None:
    loader = DataLoader(Dataset(entries), collate_fn=list)
    engine = CaseEvaluator("cpu", loader, network, _Grey(), tmp_path / "out")
    with pytest.raises(DataError, match="give entries of number_groups"):
        engine.run()
