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

"""Datalists from Sa2VA's annotations.json and nnU-Net's dataset.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from monai_sa2va.cli.datalist import datalist
from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.import_datalist import import_datalist
from monai_sa2va.data.make_datalist import write_datalist
from monai_sa2va.errors import DatalistError
from monai_sa2va.transforms.labels import LabelToMasksd
from monai_sa2va.transforms.load import LoadPixelsd

SQUARE, RIGHT = [1, 1, 4, 1, 4, 3, 1, 3], [3, 1, 6, 1, 6, 3, 3, 3]


def _annotations(folder: Path, items: list[Any]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for item in items:
        Image.new("RGB", (8, 6)).save(folder / "images" / item["image"])
    path = folder / "annotations.json"
    path.write_text(json.dumps(items))
    return path


def _masks(entry: dict[str, Any]) -> np.ndarray:
    """(N, H, W) as training sees them."""
    loaded = LoadPixelsd(keys=["image", "label"])(entry)
    masks = np.asarray(LabelToMasksd()(loaded)["gt_masks"])
    return masks if masks.shape[-2:] == (6, 8) else masks.transpose(0, 2, 1)


def test_polygons_become_masks_that_training_reads(tmp_path: Path) -> None:
    items = [
        {"image": "a.png", "mask": [[SQUARE, RIGHT], [[0, 4, 8, 4, 8, 6, 0, 6]]], "text": ["Blood Vessels.", "disc"]},
        {"image": "b.png", "mask": [[SQUARE], [RIGHT]], "text": ["nodule", "Nodule"]},
    ]
    made = import_datalist(_annotations(tmp_path, items), tmp_path / "drawn", base_dir=tmp_path, split=(1.0, 0.0))
    assert made.warnings == ["1 object(s) were united with another one of the same phrase and image"]
    write_datalist(tmp_path / "d.json", made.sections)
    first, second = sorted(load_datalist(tmp_path / "d.json"), key=lambda entry: entry["image"])
    assert first["prompts"] == {"1": ["blood vessels"], "2": ["disc"]}
    assert [Path(path).name for path in first["label"]] == ["000000_a_1.png", "000000_a_2.png"]
    masks = _masks(first)
    # 3 x 2 pixels each, of which a column of 2 lies in both: united, not added
    assert masks[0].sum() == 10
    assert set(np.unique(masks)) == {0, 1}
    assert masks[1].sum() == 16
    assert second["prompts"] == {"1": ["nodule"]}
    assert _masks(second).sum() == 10


def test_annotations_are_split_by_patient(tmp_path: Path) -> None:
    items = [{"image": f"p{n // 2}_{n % 2}.png", "mask": [[SQUARE]], "text": ["vessel"]} for n in range(8)]
    made = import_datalist(
        _annotations(tmp_path, items), tmp_path / "m", base_dir=tmp_path, group_regex=r"p(\d)", split=(0.5, 0.25, 0.25)
    )
    assert {name: len(entries) for name, entries in made.sections.items()} == {
        "training": 4,
        "validation": 2,
        "testing": 2,
    }
    assert all(len({entry["group"] for entry in entries}) in (1, 2) for entries in made.sections.values())


def test_an_image_that_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    items = [
        {"image": "a.png", "mask": [[SQUARE]], "text": ["vessel"]},
        {"image": "out.png", "mask": [[[20, 20, 30, 20, 30, 30]]], "text": ["vessel"]},
        {"image": "odd.png", "mask": [[[1, 2, 3]]], "text": ["vessel"]},
        {"image": "none.png", "mask": [], "text": []},
    ]
    path = _annotations(tmp_path, items)
    (tmp_path / "images" / "gone.png").unlink(missing_ok=True)
    made = import_datalist(path, tmp_path / "m", base_dir=tmp_path, split=(1.0, 0.0))
    assert {left.file.name: left.reason for left in made.left_out} == {
        "out.png": "the polygons of 'vessel' hold no pixel of the image",
        "odd.png": "polygon 0: give x and y of at least three corners in one list of numbers",
        "none.png": "has no object",
    }
    assert len(made) == 1


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([], r"annotations\[0\]: an entry is an object with image, mask and text"),
        ({"image": "", "mask": [], "text": []}, r"annotations\[0\]\.image: has to be a file's name"),
        ({"image": "a.png", "mask": [1], "text": ["x"]}, r"annotations\[0\]\.mask: has to be a list of polygons"),
        ({"image": "a.png", "mask": [[]], "text": []}, r"annotations\[0\]\.text: .* one phrase for each of 1 objects"),
        ({"image": "a.png", "mask": [[]], "text": [" "]}, r"annotations\[0\]\.text\[0\]: a phrase is text"),
    ],
)
def test_fields_that_cannot_be(tmp_path: Path, item: Any, message: str) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps([item]))
    with pytest.raises(DatalistError, match=message):
        import_datalist(tmp_path / "annotations.json", tmp_path / "m", base_dir=tmp_path)


def _nnunet(folder: Path, version: int, channels: int = 1, **changes: Any) -> Path:
    label = np.zeros((6, 8, 4), np.uint8)
    label[1:3, 1:3], label[4:, 4:] = 1, 2
    ending = ".nii.gz"
    for case in range(3):
        for kind, name in (("imagesTr", f"c{case}_0000"), ("imagesTr", f"c{case}_0001"), ("labelsTr", f"c{case}")):
            (folder / kind).mkdir(exist_ok=True)
            values = label if kind == "labelsTr" else label.astype(np.int16) * 50
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / kind / f"{name}{ending}")
    names = {str(number): name for number, name in enumerate(("CT", "T2")[:channels])}
    if version == 1:
        content: dict[str, Any] = {
            "modality": names,
            "labels": {"0": "background", "1": "liver", "2": "left_kidney"},
            "training": [
                {"image": f"./imagesTr/c{case}{ending}", "label": f"./labelsTr/c{case}{ending}"} for case in range(3)
            ],
        }
    else:
        content = {
            "channel_names": names,
            "labels": {"background": 0, "liver": 1, "left_kidney": 2},
            "numTraining": 3,
            "file_ending": ending,
        }
    (folder / "dataset.json").write_text(json.dumps({**content, **changes}))
    return folder / "dataset.json"


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_nnunet(tmp_path: Path, version: int) -> None:
    made = import_datalist(_nnunet(tmp_path, version), tmp_path, base_dir=tmp_path, split=(1.0, 0.0))
    write_datalist(tmp_path / "d.json", made.sections)
    entries = load_datalist(tmp_path / "d.json")
    assert [Path(entry["image"]).name for entry in entries] == [f"c{case}_0000.nii.gz" for case in range(3)]
    for entry in entries:
        assert entry["prompts"] == {"1": ["liver"], "2": ["left kidney"]}
        assert entry["family"] == "CT"
        assert Path(entry["label"]).parent.name == "labelsTr"


def test_a_channel_is_chosen_by_number_or_name(tmp_path: Path) -> None:
    path = _nnunet(tmp_path, 2, channels=2)
    with pytest.raises(DatalistError, match=r"has the channels 0 \(CT\), 1 \(T2\); name one with --channel"):
        import_datalist(path, tmp_path, base_dir=tmp_path)
    with pytest.raises(DatalistError, match=r"--channel PET: dataset\.json has the channels"):
        import_datalist(path, tmp_path, base_dir=tmp_path, channel="PET")
    for channel in ("1", "T2"):
        made = import_datalist(path, tmp_path, base_dir=tmp_path, channel=channel, split=(1.0, 0.0))
        assert {entry["image"] for entry in made.sections["training"]} == {
            f"imagesTr/c{case}_0001.nii.gz" for case in range(3)
        }
        assert made.sections["training"][0]["family"] == "T2"


def test_regions_and_ignored_labels_are_told_of(tmp_path: Path) -> None:
    labels = {"background": 0, "organs": [1, 2], "liver": 1, "kidney": 2, "ignore": 3}
    made = import_datalist(_nnunet(tmp_path, 2, labels=labels), tmp_path, base_dir=tmp_path, split=(1.0, 0.0))
    assert made.warnings == [
        "label 'organs' is a region of the values [1, 2], and a prompt names one value: left out",
        "label 'ignore' (3) becomes background, as nothing is left out of a loss here",
    ]
    (tmp_path / "labelsTr" / "c1.nii.gz").unlink()
    made = import_datalist(tmp_path / "dataset.json", tmp_path, base_dir=tmp_path, split=(1.0, 0.0))
    assert [(left.file.name, left.reason) for left in made.left_out] == [("c1_0000.nii.gz", "has no label")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("3", "is neither Sa2VA's annotations.json nor nnU-Net's dataset.json"),
        ("{}", "is none of nnU-Net's; it needs labels, and channel_names or modality"),
        ('{"labels": {"background": 0}, "channel_names": {"0": "CT"}}', "labels name nothing but the background"),
        ('{"labels": {"a": "x"}, "channel_names": {"0": "CT"}}', r"labels\['a'\] is 'x'; a whole number"),
        ('{"labels": {"a": 1}, "channel_names": {"0": "CT"}}', "no image of imagesTr and label of labelsTr"),
    ],
)
def test_files_that_are_neither(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatalistError, match=message):
        import_datalist(tmp_path / "x.json", tmp_path, base_dir=tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(datalist)
    items = [{"image": f"{name}.png", "mask": [[SQUARE]], "text": ["vessel"]} for name in "xyz"]
    _annotations(tmp_path, items)
    result = CliRunner().invoke(app, ["annotations.json", "-o", "d.json", "--split", "1/0/0"])
    assert result.output == (
        "wrote d.json: 3 pairs; training 3 (groups: 3), validation 0 (groups: 0), testing 0 (groups: 0); vessel in 3\n"
    )
    assert len(list((tmp_path / "masks").glob("*.png"))) == 3
    for arguments in (["images", "-o", "d.json"], ["images", "masks", "-o", "d.json"]):
        with pytest.raises(DatalistError, match="of a folder of images give MASKS and --prompt"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    with pytest.raises(DatalistError, match="says its phrases itself"):
        CliRunner().invoke(app, ["annotations.json", "-p", "x", "-o", "d.json"], catch_exceptions=False)
