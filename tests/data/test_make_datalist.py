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
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_sa2va.data.datalist import load_datalist
from monai_sa2va.data.make_datalist import MadeDatalist, make_datalist, parse_prompt_options, write_datalist
from monai_sa2va.errors import DatalistError, OutputError
from monai_sa2va.transforms.labels import LabelToMasksd

ALL_TRAINING = {"split": (1, 0, 0)}


def folders(root: Path, masks: dict[str, list[int]], size: tuple[int, int] = (6, 4)) -> tuple[Path, Path]:
    """Pictures of 6 x 4 pixels, and masks in which each of the values listed has one pixel."""
    for name in ("images", "masks"):
        (root / name).mkdir(exist_ok=True)
    for name, values in masks.items():
        Image.new("RGB", size).save(root / "images" / f"{name}.jpg")
        pixels = np.zeros((4, 6), dtype=np.uint8)
        pixels.flat[: len(values)] = values
        Image.fromarray(pixels).save(root / "masks" / f"{name}.png")
    return root / "images", root / "masks"


def make(root: Path, masks: dict[str, list[int]], *prompts: str, **options: object) -> MadeDatalist:
    return make_datalist(*folders(root, masks), prompts, base_dir=root, **{**ALL_TRAINING, **options})


def shown(made: MadeDatalist) -> dict[str, tuple[dict[str, list[str]], list[str]]]:
    return {
        Path(entry["image"]).stem: (entry["prompts"], entry.get("absent", []))
        for entries in made.sections.values()
        for entry in entries
    }


def test_options_become_prompts():
    assert parse_prompt_options(["vessels | blood vessels"]) == {0: ("vessels", "blood vessels")}
    assert parse_prompt_options(["2=optic disc|optic nerve head", "1 = vessels"]) == {
        1: ("vessels",),
        2: ("optic disc", "optic nerve head"),
    }
    assert parse_prompt_options(["T = 1 lesion"]) == {0: ("T = 1 lesion",)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no prompt is given"),
        (["vessels", "disc"], "prompt 'vessels': number each of several prompts by its label value, as in 1=vessels"),
        (["1=vessels", "disc"], "prompt 'disc': number each of several prompts"),
        (["1=a", "1=b"], r"prompt '1=b': label value 1 is given twice; join synonyms by \|"),
        (["0=background"], "prompt '0=background': key '0' is no label value"),
        (["1="], "a phrase is text that is not empty"),
        (["vessels||x"], "a phrase is text that is not empty"),
        (["x" * 513], "has 513 characters"),
    ],
)
def test_options_that_can_not_be_used_are_named(options, message):
    with pytest.raises(DatalistError, match=message):
        parse_prompt_options(options)


@pytest.mark.parametrize("value", [1, 255, 128])
def test_a_name_alone_is_the_foreground_of_binary_masks(tmp_path, value):
    made = make(tmp_path, {"a": [value, value], "b": [value]}, "vessels|blood vessels")
    assert made.sections == {
        "training": [
            {"image": "images/a.jpg", "label": "masks/a.png", "prompts": {str(value): ["vessels", "blood vessels"]}},
            {"image": "images/b.jpg", "label": "masks/b.png", "prompts": {str(value): ["vessels", "blood vessels"]}},
        ],
        "validation": [],
        "testing": [],
    }
    assert made.groups == {"training": ["a", "b"], "validation": [], "testing": []}
    assert (made.left_out, made.warnings, len(made)) == ([], [], 2)


def test_binary_masks_may_be_written_in_several_ways(tmp_path):
    images, masks = folders(tmp_path, {"a": [1], "b": [255], "c": []})
    white = np.zeros((4, 6), dtype=np.uint16)
    white[0, 0] = 65535
    Image.fromarray(white).save(masks / "c.png")
    made = make_datalist(images, masks, ["vessels"], base_dir=tmp_path, **ALL_TRAINING)
    assert shown(made) == {
        "a": ({"1": ["vessels"]}, []),
        "b": ({"255": ["vessels"]}, []),
        "c": ({"65535": ["vessels"]}, []),
    }
    write_datalist(tmp_path / "d.json", made.sections)
    load = Compose([LoadImaged(["image", "label"], ensure_channel_first=True), LabelToMasksd("label")])
    assert [int(load(entry)["gt_masks"].sum()) for entry in load_datalist(tmp_path / "d.json")] == [1, 1, 1]


def test_images_that_training_refuses_are_left_out(tmp_path):
    images, masks = folders(tmp_path, {"a": [1], "palette": [1], "cmyk": [1], "holes": [1]})
    (images / "palette.jpg").unlink()
    Image.new("P", (6, 4)).save(images / "palette.png")
    Image.new("CMYK", (6, 4)).save(images / "cmyk.jpg")
    (images / "holes.jpg").unlink()
    Image.fromarray(np.full((4, 6), np.nan, dtype=np.float32)).save(images / "holes.tif")
    made = make_datalist(images, masks, ["vessels"], base_dir=tmp_path, **ALL_TRAINING)
    assert list(shown(made)) == ["a"]
    assert [left.reason.split(":")[0] for left in made.left_out] == [
        "cmyk.jpg is a picture of mode CMYK, whose numbers are no brightness",
        "holes.tif holds 24 value(s) that are NaN or infinite",
        "palette.png is a picture of mode P, whose numbers are no brightness",
    ]


def test_both_eyes_of_a_child_in_two_sections_are_warned_of(tmp_path):
    masks = {f"Image_{child:02d}{eye}": [255] for child in range(1, 11) for eye in "LR"}
    made = make(tmp_path, masks, "vessels", split=(0.8, 0.1, 0.1))
    assert len(made.warnings) == 1
    assert made.warnings[0].endswith(r"to keep them together give --group-regex '(\d+)[LR]'")
    for options in ({"group_regex": r"(\d+)[LR]", "split": (0.8, 0.1, 0.1)}, {"group_regex": r"(.+)"}, {}):
        assert make(tmp_path, masks, "vessels", **options).warnings == []
    # whoever names groups by hand may forget an eye, too
    made = make(tmp_path, masks, "vessels", test_groups=["Image_03L"])
    assert made.warnings[0].startswith("Image_03L (testing) and Image_03R (training) may be one patient's")


def test_an_entry_has_the_prompts_that_its_mask_holds(tmp_path):
    made = make(tmp_path, {"a": [1, 2], "b": [2, 7]}, "1=vessels", "2=disc|optic disc", absent=["stent"])
    assert shown(made) == {
        "a": ({"1": ["vessels"], "2": ["disc", "optic disc"]}, ["stent"]),
        "b": ({"2": ["disc", "optic disc"]}, ["stent"]),
    }
    assert made.warnings == ["label value 7 occurs in 1 mask(s) and no prompt names it"]


def test_what_a_mask_does_not_hold_is_absent_only_on_demand(tmp_path):
    masks = {"a": [1, 2], "b": [2], "c": []}
    made = make(tmp_path, masks, "1=vessels|blood vessels", "2=disc")
    assert shown(made) == {
        "a": ({"1": ["vessels", "blood vessels"], "2": ["disc"]}, []),
        "b": ({"2": ["disc"]}, []),
    }
    assert [(left.file.name, left.reason.split(";")[0]) for left in made.left_out] == [
        ("c.jpg", "shows nothing that a prompt names")
    ]
    made = make(tmp_path, masks, "1=vessels|blood vessels", "2=disc", negatives=True)
    assert shown(made)["b"] == ({"2": ["disc"]}, ["vessels"])
    assert shown(made)["c"] == ({}, ["vessels", "disc"])
    assert made.left_out == []


def test_an_empty_binary_mask_is_an_example_of_absence(tmp_path):
    made = make(tmp_path, {"a": [255], "b": []}, "polyp", negatives=True)
    assert shown(made) == {"a": ({"255": ["polyp"]}, []), "b": ({}, ["polyp"])}


@pytest.mark.parametrize(
    ("masks", "prompts", "message"),
    [
        (
            {"a": [1], "b": [2]},
            ["vessels"],
            r"different foreground values \(1 in a\.png, 2 in b\.png\): of a label map",
        ),
        (
            {"a": [255], "b": [255], "c": [128]},
            ["vessels"],
            r"values \(128 in c\.png, 255 in a\.png\): .* the odd ones",
        ),
        ({"a": [1, 3]}, ["1=vessels", "2=disc"], "prompt '2=disc' is in no mask; values there: 1, 3$"),
        ({"a": [255]}, ["1=vessels"], "is in no mask; values there: 255; leave out the number where masks are binary"),
        ({"a": []}, ["1=vessels"], "is in no mask; values there: only 0"),
    ],
)
def test_prompts_that_do_not_fit_the_masks_are_refused(tmp_path, masks, prompts, message):
    with pytest.raises(DatalistError, match=message):
        make(tmp_path, masks, *prompts)


def test_files_that_do_not_fit_are_left_out_and_named(tmp_path):
    images, masks = folders(tmp_path, {name: [255] for name in ("good", "shape", "broken", "values", "jpeg", "mask")})
    Image.new("L", (4, 6)).save(masks / "shape.png")
    (images / "broken.jpg").write_bytes(b"no picture")
    Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint8).repeat(2, 0).repeat(2, 1)).save(
        masks / "values.png"
    )
    (masks / "jpeg.png").unlink()
    Image.effect_noise((6, 4), 50).save(masks / "jpeg.jpg")
    (masks / "mask.png").write_bytes(b"")
    Image.new("L", (6, 4)).save(images / "alone.png")
    Image.new("L", (6, 4)).save(masks / "lonely.png")
    made = make_datalist(images, masks, ["vessels"], base_dir=tmp_path, **ALL_TRAINING)
    assert list(shown(made)) == ["good"]
    reasons = {left.file.name: left.reason for left in made.left_out}
    assert sorted(reasons) == sorted(
        ["alone.png", "broken.jpg", "jpeg.jpg", "lonely.png", "mask.jpg", "shape.jpg", "values.jpg"]
    )
    assert reasons["alone.png"] == "no mask has its name"
    assert reasons["lonely.png"] == "no image has its name"
    assert reasons["broken.jpg"].startswith("broken.jpg can't be read: ")
    assert reasons["mask.jpg"].startswith("mask.png can't be read: ")
    assert reasons["shape.jpg"] == "mask shape.png doesn't fit: shape 6 x 4 of the image is not 4 x 6 of its label"
    assert reasons["values.jpg"] == (
        "mask values.png holds 5 values (1, 2, 3, 4, 5): of a label map every prompt needs its number (1=...)"
    )
    assert reasons["jpeg.jpg"].endswith("JPEG blurs binary masks: threshold it and save it as PNG")


def test_volumes_have_to_lie_in_one_place(tmp_path):
    for name, shift in (("a", 0), ("b", 30)):
        for kind, move in (("images", 0), ("masks", shift)):
            (tmp_path / kind).mkdir(exist_ok=True)
            affine = np.eye(4)
            affine[0, 3] = move
            nibabel.save(
                nibabel.Nifti1Image(np.ones((3, 4, 5), dtype=np.int16), affine), tmp_path / kind / f"{name}.nii.gz"
            )
    made = make_datalist(tmp_path / "images", tmp_path / "masks", ["organ"], base_dir=tmp_path, **ALL_TRAINING)
    assert shown(made) == {"a.nii": ({"1": ["organ"]}, [])}
    assert [left.reason for left in made.left_out] == [
        "mask b.nii.gz doesn't fit: image and label have one shape but lie up to 30.0 mm apart"
    ]


def test_nothing_usable_gives_an_empty_datalist(tmp_path):
    made = make(tmp_path, {"a": [1, 2]}, "vessels")
    assert (len(made), len(made.left_out)) == (0, 1)
    assert made.groups == {"training": [], "validation": [], "testing": []}


def test_negative_values_are_refused(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), -1, dtype=np.int16), np.eye(4)), tmp_path / kind / "a.nii")
    made = make_datalist(tmp_path / "images", tmp_path / "masks", ["organ"], base_dir=tmp_path, **ALL_TRAINING)
    assert [left.reason for left in made.left_out] == ["mask a.nii holds the negative value -1"]


def test_a_group_is_in_one_section(tmp_path):
    masks = {f"Image_{child:02d}{eye}": [255] for child in range(1, 11) for eye in "LR"}
    made = make(tmp_path, masks, "vessels", group_regex=r"(\d+)[LR]", split=(0.6, 0.2, 0.2))
    assert {section: len(entries) for section, entries in made.sections.items()} == {
        "training": 12,
        "validation": 4,
        "testing": 4,
    }
    children = {
        section: {Path(entry["image"]).stem[6:8] for entry in entries} for section, entries in made.sections.items()
    }
    assert children == {section: set(groups) for section, groups in made.groups.items()}
    assert sum(map(len, children.values())) == 10
    # evaluation resamples by it
    groups = {Path(entry["image"]).stem: entry["group"] for entries in made.sections.values() for entry in entries}
    assert groups == {name: name[6:8] for name in masks}
    without = make(tmp_path, masks, "vessels")
    assert not any("group" in entry for entry in without.sections["training"])
    again = make(tmp_path, masks, "vessels", group_regex=r"(\d+)[LR]", split=(0.6, 0.2, 0.2))
    assert again == made
    other = make(tmp_path, masks, "vessels", group_regex=r"(\d+)[LR]", split=(0.6, 0.2, 0.2), seed=1)
    assert other.groups != made.groups


def test_names_without_a_group_are_left_out(tmp_path):
    made = make(tmp_path, {"Image_01L": [255], "extra": [255]}, "vessels", group_regex=r"(\d+)[LR]")
    assert list(shown(made)) == ["Image_01L"]
    assert [left.reason for left in made.left_out] == [r"group regex '(\d+)[LR]' matches nothing in 'extra'"]


def test_groups_are_named(tmp_path):
    masks = {"p1_a": [255], "p2_a": [255], "p2_b": [255], "p3_a": [255]}
    options = {"group_regex": r"p(\d)", "validation_groups": ["3"], "test_groups": ["2"]}
    made = make(tmp_path, masks, "vessels", **options)
    assert made.groups == {"training": ["1"], "validation": ["3"], "testing": ["2"]}
    assert [Path(entry["image"]).stem for entry in made.sections["testing"]] == ["p2_a", "p2_b"]
    with pytest.raises(DatalistError, match="testing group '9' does not occur"):
        make(tmp_path, masks, "vessels", group_regex=r"p(\d)", test_groups=["9"])


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(DatalistError, match="absent 'Vessels' is also a prompt"):
        make(tmp_path, {"a": [255]}, "vessels", absent=["Vessels"])
    with pytest.raises(DatalistError, match="absent: a phrase is text"):
        make(tmp_path, {"a": [255]}, "vessels", absent=[""])


def test_what_is_made_can_be_loaded_from_anywhere(tmp_path, monkeypatch):
    images, masks = folders(tmp_path, {"a": [1, 2], "b": [2]})
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path / "lists" / "deep" / "d.json", Path("d.json")):
        made = make_datalist(
            "images", masks, ["1=vessels", "2=disc"], base_dir=target.parent, negatives=True, **ALL_TRAINING
        )
        write_datalist(target, made.sections)
        assert load_datalist(target) == [
            {
                "image": str(images / "a.jpg"),
                "label": str(masks / "a.png"),
                "prompts": {"1": ["vessels"], "2": ["disc"]},
                "absent": [],
            },
            {
                "image": str(images / "b.jpg"),
                "label": str(masks / "b.png"),
                "prompts": {"2": ["disc"]},
                "absent": ["vessels"],
            },
        ]


@pytest.mark.parametrize("values", [[1, 1], [255, 255], [128, 128]])
def test_what_is_made_is_what_the_transforms_take(tmp_path, values):
    made = make(tmp_path, {"a": values}, "vessels", absent=["stent"])
    write_datalist(tmp_path / "d.json", made.sections)
    load = Compose([LoadImaged(["image", "label"], ensure_channel_first=True), LabelToMasksd("label")])
    sample = load(load_datalist(tmp_path / "d.json")[0])
    assert sample["gt_masks"].flatten(1).sum(1).tolist() == [2, 0]
    assert sample["names"] == ["vessels", "stent"]


def test_a_datalist_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "d.json"
    write_datalist(path, {"training": ["é"]})
    write_datalist(path, {"training": ["ü"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"training": ["ü"]}
    with pytest.raises(TypeError):
        write_datalist(path, {"training": [object()]})
    assert [file.name for file in path.parent.iterdir()] == ["d.json"]
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(OutputError, match=r"datalist .*d\.png can't be written: give its name the suffix \.json"):
        write_datalist(path.with_name("d.png"), {})
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OutputError, match=r"datalist .*folder\.json can't be written: Is a directory"):
        write_datalist(tmp_path / "folder.json", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.json", "new"]


def test_torch_is_not_imported(tmp_path):
    folders(tmp_path, {"a": [255]})
    code = (
        "import sys; from monai_sa2va.cli.datalist import datalist; from pathlib import Path;"
        "datalist(Path('images'), Path('d.json'), Path('masks'), ['vessels'], split='1/0/0');"
        "from monai_sa2va.data.datalist import load_datalist; assert len(load_datalist('d.json')) == 1;"
        "heavy = {'torch', 'monai', 'transformers', 'sam2'} & set(sys.modules); assert not heavy, heavy"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "1 pairs" in ran.stdout


def test_real_photographs_pair_and_split_by_child(data_dir, tmp_path):
    chase = data_dir / "vessels" / "chase_db1"
    children = [f"{child:02d}" for child in range(11, 15)]
    made = make_datalist(
        chase / "images",
        chase / "masks",
        ["vessels"],
        base_dir=tmp_path,
        group_regex=r"(\d+)[LR]",
        test_groups=children,
    )
    assert (len(made), made.left_out, made.warnings) == (28, [], [])
    assert {section: len(entries) for section, entries in made.sections.items()} == {
        "training": 20,
        "validation": 0,
        "testing": 8,
    }
    assert made.groups["testing"] == children
    write_datalist(tmp_path / "chase.json", made.sections)
    loaded = load_datalist(tmp_path / "chase.json", "testing")
    assert [Path(entry["image"]).stem[6:8] for entry in loaded] == [c for c in children for _ in "LR"]
    assert all(entry["prompts"] == {"255": ["vessels"]} for entry in loaded)
    split = make_datalist(chase / "images", chase / "masks", ["vessels"], base_dir=tmp_path, group_regex=r"(\d+)[LR]")
    assert [len(split.groups[section]) for section in ("training", "validation", "testing")] == [11, 2, 1]
