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

"""What there is to be done under some paths."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
import nibabel
import numpy as np
from trees import small

from monai_sa2va.batch.job import Job, Status
from monai_sa2va.batch.plan import jobs_of_entries, plan_jobs
from monai_sa2va.dicom.series import DicomSeries
from monai_sa2va.errors import DataError, OutputError, PromptError


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two series, a report and a localizer in one tree with a NIfTI, a note and a hidden file."""
    folder = tmp_path / "mixed"
    made.write(folder / "a" / "b", small(0))
    made.write(folder / "c", small(3, slices=3))
    made.write(folder / "c", [made.document(name="report")])
    made.write(folder / "d", small(9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), folder / "ct.nii.gz")
    (folder / "notes.txt").write_text("no image")
    (folder / ".DS_Store").write_text("hidden")
    return folder


_NO_RULE = (Status.SKIPPED, "NO_PROMPT", "no rule is for it, and there is no prompt for all")


def _series(number: int) -> str:
    return made.uid("series", f"series {number}")


def _by_name(jobs: list[Job]) -> dict[str, Job]:
    return {job.name: job for job in jobs}


def test_a_folder_may_mix_dicom_and_volumes(mixed: Path) -> None:
    jobs = _by_name(plan_jobs(mixed, ["Segment the liver."]))
    assert set(jobs) == {"ct.nii.gz", _series(0), _series(3), _series(9), made.uid("series", "report"), "notes.txt"}
    assert [job.number for job in jobs.values()] == list(range(6))
    volume, first = jobs["ct.nii.gz"], jobs[_series(0)]
    assert (volume.folder, volume.slices, volume.modality, volume.verdict) == ("ct", 6, "", None)
    assert isinstance(first.source, DicomSeries)
    assert first.folder == f"{made.uid('study', 'series 0')}/{_series(0)}"
    assert (first.slices, first.modality, first.prompts) == (2, "CT", ("Segment the liver.",))
    assert (jobs[_series(3)].slices, jobs[_series(3)].modality) == (3, "MR")
    told = {name: job.verdict[:2] for name, job in jobs.items() if job.verdict}
    assert told == {
        _series(9): (Status.SKIPPED, "LOCALIZER"),
        made.uid("series", "report"): (Status.SKIPPED, "NOT_AN_IMAGE"),
        "notes.txt": (Status.SKIPPED, "NOT_DICOM"),
    }


def test_it_depends_on_no_name_and_no_place(mixed: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", mixed / "a")
    jobs = plan_jobs([archive], "liver")
    assert [(job.name, job.folder) for job in jobs] == [(_series(0), f"{made.uid('study', 'series 0')}/{_series(0)}")]
    (mixed / "a").rename(mixed / "Jane Doe")
    again = _by_name(plan_jobs(mixed, "liver"))
    assert again[_series(0)].folder == jobs[0].folder
    assert not any("Jane" in job.folder or "Jane" in job.name for job in again.values())


def test_what_is_not_asked_for_is_skipped(mixed: Path) -> None:
    jobs = _by_name(plan_jobs(mixed, "liver", where=["Modality=C*", "BodyPartExamined=abdomen"]))
    left = {name: job.verdict for name, job in jobs.items() if job.verdict and job.verdict[1] == "NOT_ASKED"}
    assert left == dict.fromkeys(
        ("ct.nii.gz", _series(3)), (Status.SKIPPED, "NOT_ASKED", "its Modality is not what where asks for")
    )
    assert jobs[_series(0)].verdict is None
    jobs = _by_name(plan_jobs(mixed, "liver", where="Modality=CT,Modality=MR,BodyPartExamined=CHEST"))
    assert jobs[_series(0)].verdict == (Status.SKIPPED, "NOT_ASKED", "its BodyPartExamined is not what where asks for")


def test_rules_say_what_is_asked_of_which(mixed: Path, tmp_path: Path) -> None:
    rules = [
        {"modality": "MR", "prompts": ["the tumour"], "plane": "coronal"},
        {"modality": ["CT", "PT"], "description": "ma*", "prompts": "the liver", "window": "lung"},
    ]
    jobs = _by_name(plan_jobs(mixed, rules=rules))
    first, other = jobs[_series(0)], jobs[_series(3)]
    assert (first.prompts, first.window, first.axis) == (("the liver",), "lung", None)
    assert (other.prompts, other.window, other.axis) == (("the tumour",), None, "coronal")
    assert jobs["ct.nii.gz"].verdict == _NO_RULE
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([*rules, {"file": "CT*", "window": "bone"}]))
    jobs = _by_name(plan_jobs(mixed, "the spleen", rules=file))
    assert (jobs["ct.nii.gz"].prompts, jobs["ct.nii.gz"].window) == (("the spleen",), "bone")


def test_files_of_one_name_get_folders_of_their_own(tmp_path: Path) -> None:
    names = ("Image_01L.jpg", "image_01l.png", "a b.NII.GZ", "..png", "..nrrd", "眼.tif", "image_01L_2.png")
    jobs = plan_jobs([tmp_path / "in" / name for name in names], "liver")
    assert [job.folder for job in jobs] == [
        "Image_01L",
        "image_01l_2",
        "a b",
        "image",
        "image_2",
        "眼",
        "image_01L_2_2",
    ]


def test_pictures_in_deeper_folders_are_told_of(mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(mixed / "ct.nii.gz", mixed / "c" / "other.nii.gz")
    with caplog.at_level(logging.WARNING):
        jobs = plan_jobs(mixed, "liver")
    assert "other.nii.gz" not in _by_name(jobs)
    assert [record.getMessage() for record in caplog.records] == [
        "1 pictures or volumes lie in deeper folders and are left out; name their folders"
    ]


def test_without_pydicom_dicom_is_not_lost_quietly(
    mixed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_sa2va.batch.plan.find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert list(_by_name(plan_jobs(mixed, "liver"))) == ["ct.nii.gz"]
    assert "DICOM was not looked for, as pydicom is not installed" in caplog.text


def test_what_cant_be_planned(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no image")
    for place in ("empty", "text"):
        with pytest.raises(DataError, match=f"{place} has no image: no DICOM at any depth, and directly in it"):
            plan_jobs(tmp_path / place, "liver")
    with pytest.raises(DataError, match=r"notes\.txt holds no DICOM, and is none of \.png"):
        plan_jobs(mixed / "notes.txt", "liver")
    with pytest.raises(DataError, match=r"has no image that matches 'x/\*'"):
        plan_jobs(mixed, "liver", pattern="x/*")
    with pytest.raises(DataError, match="there is no image; name a folder or files"):
        plan_jobs([], "liver")
    with pytest.raises(PromptError, match="the prompt is empty"):
        plan_jobs(mixed, [" "])
    with pytest.raises(PromptError, match="there is no prompt; write what to segment, or give rules"):
        plan_jobs(mixed)
    for inside in (mixed, mixed / "a" / "out", tmp_path / "x" / ".." / "mixed" / "out"):
        with pytest.raises(OutputError, match="lies in the input folder"):
            plan_jobs(mixed, "liver", output_dir=inside)
    # a missing file fails alone
    assert [job.name for job in plan_jobs(tmp_path / "gone.png", "liver")] == ["gone.png"]


def test_entries_of_a_loader_are_jobs(tmp_path: Path) -> None:
    known = Job(7, "x", "x", None)
    entries = [{"image": "a.png"}, known, {"image": "b/a.png", "prompts": ["x y"], "patient": "p"}]
    first, second, third = jobs_of_entries(entries, ["liver"])
    assert (first.folder, first.prompts, first.source) == ("a", ("liver",), Path("a.png"))
    assert second is known
    assert (third.folder, third.prompts, third.patient, third.number) == ("a_2", ("x y",), "p", 2)
    faulty = next(jobs_of_entries([{"image": "a.png", "prompts": [""]}], ["liver"]))
    assert faulty.verdict is not None
    assert faulty.verdict[:2] == (Status.FAILED, "PROMPT")
    with pytest.raises(DataError, match="a batch has no path under 'image'"):
        list(jobs_of_entries([{"image": 3}], ["liver"]))
