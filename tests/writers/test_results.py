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

"""A folder of results over several images."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_sa2va.errors import ConfigError, OutputError
from monai_sa2va.predictor import Segmentation, Segmenter
from monai_sa2va.writers.results import ResultWriter, folder_name

PROMPTS = ["Segment the vessels.", "optic disc"]


def _png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)).save(path)
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_one_folder_an_image_and_tables_over_all(tmp_path: Path, segmenter: Segmenter) -> None:
    first, second = _png(tmp_path / "in" / "eye.png"), _png(tmp_path / "other" / "eye.png")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 2), np.int16), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "ct.1.nii.gz")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    writer = ResultWriter(tmp_path / "out")
    for image in (first, broken, second, tmp_path / "ct.1.nii.gz"):
        writer.process(segmenter, image, PROMPTS)
    writer.close()

    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    masks = ("vessels.png", "vessels.nii.gz", "optic_disc.png", "optic_disc.nii.gz")
    assert found == {
        "summary.csv",
        "objects.csv",
        *(f"{eye}/{name}" for eye in ("eye", "eye_2") for name in (*masks, "overview.png", "report.json")),
        *(f"ct.1/{name}" for name in ("vessels.nii.gz", "optic_disc.nii.gz", "overview.png", "report.json")),
    }
    summary = _rows(tmp_path / "out" / "summary.csv")
    assert [(row["image"], row["folder"], row["status"], row["objects"]) for row in summary] == [
        ("eye.png", "eye", "done", "2"),
        ("broken.png", "", "failed", ""),
        ("eye.png", "eye_2", "done", "2"),
        ("ct.1.nii.gz", "ct.1", "done", "2"),
    ]
    assert summary[1]["error"].startswith("[DATA] broken.png can't be read: ")
    assert str(tmp_path) not in (tmp_path / "out" / "summary.csv").read_text()
    assert [result.image for result in writer.failed] == ["broken.png"]
    objects = _rows(tmp_path / "out" / "objects.csv")
    assert [row["label"] for row in objects] == ["vessels", "optic disc"] * 3
    report = json.loads((tmp_path / "out" / "eye" / "report.json").read_text())
    assert [int(row["voxels"]) for row in objects[:2]] == [item["voxels"] for item in report["objects"]]
    with Image.open(tmp_path / "out" / "eye" / "vessels.png") as image:
        assert int((np.asarray(image) > 0).sum()) == report["objects"][0]["voxels"]


def test_an_earlier_run_is_kept_unless_told(tmp_path: Path, segmenter: Segmenter) -> None:
    image = _png(tmp_path / "eye.png")
    ResultWriter(tmp_path / "out").process(segmenter, image, PROMPTS)
    before = (tmp_path / "out" / "eye" / "vessels.png").read_bytes()
    again = ResultWriter(tmp_path / "out").process(segmenter, image, PROMPTS)
    # it goes into a table, and folders may name a patient
    assert again.error == "[OUTPUT] 'eye' holds results already; give overwrite, or another output folder"
    assert (tmp_path / "out" / "eye" / "vessels.png").read_bytes() == before

    (tmp_path / "out" / "eye" / "notes.txt").write_text("mine")
    replaced = ResultWriter(tmp_path / "out", ["png"], overwrite=True).process(segmenter, image, ["liver"])
    assert replaced.error == ""
    # what the earlier run wrote is gone, so that no mask is there without being asked for; what a person put stays
    names = sorted(path.name for path in (tmp_path / "out" / "eye").iterdir())
    assert names == ["liver.png", "notes.txt", "overview.png", "report.json"]


def test_the_tables_of_an_earlier_run_are_kept(tmp_path: Path, segmenter: Segmenter) -> None:
    image, out = _png(tmp_path / "eye.png"), tmp_path / "out"
    for left in ("objects.csv", "summary.csv"):
        first = ResultWriter(out, overwrite=True)
        first.process(segmenter, image, PROMPTS)
        first.close()
        (out / ({"objects.csv", "summary.csv"} - {left}).pop()).unlink()
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(OutputError, match=rf"holds results already \({left}\); give overwrite, or another output"):
            ResultWriter(out)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_no_earlier_result_stays_beside_a_failed_image(tmp_path: Path, segmenter: Segmenter) -> None:
    image, other, out = _png(tmp_path / "eye.png"), _png(tmp_path / "other.png"), tmp_path / "out"
    first = ResultWriter(out)
    for path in (image, other):
        first.process(segmenter, path, PROMPTS)
    (out / "eye" / "notes.txt").write_text("mine")
    (out / "eye" / "drawn.png").write_bytes(b"mine, too")
    kept = sorted(path.name for path in (out / "other").iterdir())

    image.write_bytes(b"torn")
    assert ResultWriter(out, overwrite=True).process(segmenter, image, PROMPTS).error.startswith("[DATA] eye.png can't")
    assert sorted(path.name for path in (out / "eye").iterdir()) == ["drawn.png", "notes.txt"]
    assert sorted(path.name for path in (out / "other").iterdir()) == kept


class _Failing:
    """Raises for one image what isn't this package's own."""

    def __init__(self, segmenter: Segmenter, error: BaseException) -> None:
        self.segmenter, self.error = segmenter, error

    def segment(self, image: Path, *arguments: Any, **options: Any) -> Segmentation:
        if image.name == "large.png":
            raise self.error
        return self.segmenter.segment(image, *arguments, **options)


_FULL = "large.png needs more memory than is free; give a smaller image, or another device"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), f"[DATA] {_FULL}"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee"), f"[DATA] {_FULL}"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), f"[DATA] {_FULL}"),
        (
            OSError(24, "Too many open files", "/home/of/a/patient"),
            "[OUTPUT] large.png can't be segmented or its results be written: Too many open files; "
            "mend that and run again",
        ),
        (
            OSError("somewhere in /home/of/a/patient"),
            "[OUTPUT] large.png can't be segmented or its results be written: OSError; mend that and run again",
        ),
    ],
)
def test_want_of_memory_or_files_stops_one_image_only(
    tmp_path: Path, segmenter: Segmenter, error: Exception, line: str
) -> None:
    writer = ResultWriter(tmp_path / "out")
    for name in ("a.png", "large.png", "z.png"):
        writer.process(_Failing(segmenter, error), _png(tmp_path / name), PROMPTS)  # type: ignore[arg-type]
    writer.close()
    summary = _rows(tmp_path / "out" / "summary.csv")
    assert [(row["image"], row["status"]) for row in summary] == [
        ("a.png", "done"),
        ("large.png", "failed"),
        ("z.png", "done"),
    ]
    assert summary[1]["error"] == line


def test_torch_tells_of_the_cpus_memory_as_we_know_it() -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        torch.empty(10**15)


def test_faults_of_the_program_are_raised(tmp_path: Path, segmenter: Segmenter) -> None:
    failing = _Failing(segmenter, RuntimeError("shapes don't match"))
    with pytest.raises(RuntimeError, match="shapes don't match"):
        ResultWriter(tmp_path / "out").process(failing, _png(tmp_path / "large.png"), PROMPTS)  # type: ignore[arg-type]


def test_no_table_names_the_output_folder(tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "Jane Doe"
    images = [_png(tmp_path / f"{name}.png") for name in ("there", "mask", "file", "lost")]
    for name, content in (("there/report.json", "{}"), ("mask/vessels.png", ""), ("file", "")):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)
    (out / "lost").mkdir()
    (out / "lost" / "report.json").write_text("{}")
    writer = ResultWriter(out)
    for image in images[:3]:
        writer.process(segmenter, image, PROMPTS)
    writer.overwrite = True
    writer.process(segmenter, images[3], PROMPTS)
    writer.close()
    errors = [row["error"] for row in _rows(out / "summary.csv")]
    assert [error.split(";")[0].split(",")[0] for error in errors] == [
        "[OUTPUT] 'there' holds results already",
        "[OUTPUT] 'mask/vessels.png' is there already",
        "[OUTPUT] the folder 'file' can't be made: File exists",
        "[OUTPUT] 'lost/report.json' of an earlier run can't be read",
    ]
    assert not any("Jane" in error for error in errors)


@pytest.mark.parametrize(
    ("image", "name"),
    [("in/My Photo Ä.PNG", "My Photo Ä"), ("ct.1.nii.gz", "ct.1"), ("ct_000001", "ct_000001"), ("..png", "image")],
)
def test_a_folders_name(image: str, name: str) -> None:
    assert folder_name(image) == name


def test_folders_are_called_like_their_files(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path)
    names = ("Image_01L.jpg", "image_01l.png", "a b.NII.GZ", "..png", "..nrrd", "summary.csv.png", "眼.tif")
    folders = [writer.reserve(tmp_path / "in" / name).relative_to(tmp_path) for name in names]
    assert [str(folder) for folder in folders] == [
        "Image_01L",
        "image_01l_2",
        "a b",
        "image",
        "image_2",
        "summary.csv_2",
        "眼",
    ]


def test_a_report_that_lists_nothing_stops_the_replacing(tmp_path: Path, segmenter: Segmenter) -> None:
    image = _png(tmp_path / "eye.png")
    (tmp_path / "out" / "eye").mkdir(parents=True)
    (tmp_path / "out" / "eye" / "report.json").write_text("{}")
    result = ResultWriter(tmp_path / "out", overwrite=True).process(segmenter, image, PROMPTS)
    assert "can't be replaced; remove the folder" in result.error


def test_bad_arguments(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made"):
        ResultWriter(tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="has 'jpeg'"):
        ResultWriter(tmp_path / "out", ["jpeg"])
    assert not (tmp_path / "out").exists()


def test_no_image_still_gives_tables(tmp_path: Path) -> None:
    ResultWriter(tmp_path).close()
    assert (tmp_path / "summary.csv").read_text().strip() == "image,folder,status,objects,found,error"
