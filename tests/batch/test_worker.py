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

"""One job of a batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import made
import numpy as np
import torch
from PIL import Image
from trees import small

from monai_sa2va.batch.job import Job, Outcome, Status
from monai_sa2va.batch.plan import plan_jobs
from monai_sa2va.batch.worker import Options, Worker, formats_for, need_writers
from monai_sa2va.errors import ConfigError
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.volume import VolumeInferer
from monai_sa2va.predictor import Segmentation, Segmenter


def _do(worker: Worker, job: Job) -> Outcome:
    return worker.finish(worker.open(job))


@pytest.fixture
def job(pictures: Path) -> Job:
    return plan_jobs(pictures / "0.png", "Segment the vessels.")[0]


@pytest.fixture
def worker(segmenter: Segmenter, tmp_path: Path) -> Worker:
    return Worker(segmenter, Options(tmp_path / "out"))


@pytest.mark.parametrize(("volume", "context"), [("propagate", None), ("auto", "sweep")])
def test_windows_and_memory_contradict_each_other_before_the_first_series(
    segmenter: Segmenter, tmp_path: Path, volume: str, context: str | None
) -> None:
    both = Segmenter(
        segmenter.network, inferer=ImageInferer(roi_size=16), volume_inferer=VolumeInferer(volume), device="cpu"
    )
    with pytest.raises(ConfigError, match="sees slices whole; leave out roi_size"):
        Worker(both, Options(tmp_path / "out", context=context))
    Worker(both, Options(tmp_path / "out", mode="chat"))


def test_what_is_not_installed_is_told_before_anything_is_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plan_jobs(made.write(tmp_path / "data", small(0)), "Segment the liver.")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConfigError, match="without pydicom and highdicom; install them"):
        need_writers(jobs, None)
    need_writers(jobs, ("nifti",))
    need_writers([], None)


def test_a_series_gets_its_seg_and_its_nifti(worker: Worker, tmp_path: Path) -> None:
    job = plan_jobs(made.write(tmp_path / "data", small(0)), "Segment the liver.")[0]
    outcome = _do(worker, job)
    assert outcome.status is Status.DONE, outcome
    folder = tmp_path / "out" / made.uid("study", "series 0") / made.uid("series", "series 0")
    assert outcome.folder == folder.relative_to(tmp_path / "out").as_posix()
    assert {path.name for path in folder.iterdir()} == {"seg.dcm", "liver.nii.gz", "overview.png", "report.json"}
    assert set(outcome.files) >= {"seg.dcm", "liver.nii.gz", "overview.png"}
    report = json.loads((folder / "report.json").read_text())
    assert report["run"]["weights"] == worker.weights
    assert len(report["run"]["fingerprint"]) == 64


def test_formats_suit_the_source(tmp_path: Path) -> None:
    series = plan_jobs(made.write(tmp_path / "data", small(0)), "liver")[0].source
    assert formats_for(series, None) == ("dicom-seg", "nifti")
    assert formats_for(Path("a.png"), None) == ("nifti", "png")
    assert formats_for(Path("a.png"), ("dicom-seg", "nifti", "rtstruct")) == ("nifti",)
    # refused when it is written, by the name of the file
    assert formats_for(Path("a.png"), ("dicom-seg",)) == ("dicom-seg",)


def test_what_is_done_is_known_by_what_was_asked(worker: Worker, job: Job, pictures: Path) -> None:
    assert worker.earlier(job) is None
    done = _do(worker, job)
    again = _do(worker, job)
    assert (again.earlier, again.seconds, again.status) == (True, 0.0, Status.DONE)
    assert list(again.objects) == list(done.objects)
    for change in (
        {"prompts": ("Segment the optic disc.",)},
        {"window": "percentile"},
        {"axis": "coronal"},
        {"source": pictures / "1.png"},
    ):
        assert worker.earlier(replace(job, **change)) is None, change
    # whom it shows makes no difference where it is not told
    assert worker.earlier(replace(job, patient="p", number=9, slices=4)) is not None
    for options in (
        {"formats": ("png",)},
        {"mode": "chat"},
        {"include_patient": True},
        {"overwrite": True},
        {"amp": True},
    ):
        other = Worker(worker.segmenter, replace(worker.options, **options))
        assert other.earlier(job) is None, options


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(("name", "harm"), [("vessels.nii.gz", Path.unlink), ("overview.png", _cut)])
def test_results_that_are_not_as_they_were_written_are_made_again(
    worker: Worker, job: Job, name: str, harm: Callable[[Path], None]
) -> None:
    done = _do(worker, job)
    path = worker.options.output_dir / job.folder / name
    before = path.read_bytes()
    harm(path)
    assert worker.earlier(job) is None
    again = _do(worker, job)
    assert (again.status, again.earlier, again.again) == (Status.DONE, False, (name,))
    assert (again.code, again.reason) == (
        "RESULTS_CHANGED",
        f"{name} of an earlier run was changed or is missing, so it was done again",
    )
    assert path.read_bytes() == before
    assert again.objects == done.objects
    assert _do(worker, job).earlier


def test_a_mask_that_a_person_corrected_is_kept_beside_the_new_one(worker: Worker, job: Job) -> None:
    _do(worker, job)
    folder = worker.options.output_dir / job.folder
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"}
    for text, kept in ((b"corrected", "vessels.changed.nii.gz"), (b"once more", "vessels_2.changed.nii.gz")):
        (folder / "vessels.nii.gz").write_bytes(text)
        assert _do(worker, job).again == ("vessels.nii.gz",)
        before[kept] = text
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"} == before
    # who gives it up has said so
    (folder / "vessels.nii.gz").write_bytes(b"a third time")
    _do(Worker(worker.segmenter, replace(worker.options, overwrite=True)), job)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.json"} == before


def test_other_weights_are_another_question(worker: Worker, job: Job) -> None:
    _do(worker, job)
    weight = worker.segmenter.network.text_hidden_fcs[0].bias
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0] += 1
        assert Worker(worker.segmenter, worker.options).earlier(job) is None
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert Worker(worker.segmenter, worker.options).earlier(job) is not None


def test_a_job_has_its_own_window_and_axis(worker: Worker, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []
    segment = Segmenter.segment

    def noted(self: Segmenter, *arguments: Any, **options: Any) -> Segmentation:
        seen.append((self.window.kind, self.stack.axis))
        return segment(self, *arguments, **options)

    monkeypatch.setattr(Segmenter, "segment", noted)
    _do(worker, job)
    _do(worker, replace(job, window="percentile", axis="coronal"))
    assert seen == [("auto", "auto"), ("percentile", "coronal")]


def test_what_a_killed_run_left_is_removed(worker: Worker, job: Job, tmp_path: Path, pictures: Path) -> None:
    class _Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise _Killed

    other = replace(job, folder="other")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("monai_sa2va.writers.whole_folder.shutil.rmtree", lambda *_, **__: None)
        patched.setattr("monai_sa2va.writers.results.write_report", killed)
        for each in (job, other):
            with pytest.raises(_Killed):
                _do(worker, each)
    hidden = {path for path in (tmp_path / "out").iterdir() if path.name[0] == "."}
    assert len(hidden) == 2
    assert _do(worker, job).status is Status.DONE
    # another shard may be at the other one
    left = {path for path in (tmp_path / "out").iterdir() if path.name[0] == "."}
    assert len(left) == 1
    assert left < hidden


_FULL = "0.png needs more memory than is free; give a smaller image, or another device"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), "DATA", _FULL),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee"), "DATA", _FULL),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "DATA", _FULL),
        (
            OSError(24, "Too many open files", "/home/of/a/patient"),
            "OUTPUT",
            "0.png can't be segmented or its results be written: Too many open files; mend that and run again",
        ),
        (
            OSError("somewhere in /home/of/a/patient"),
            "OUTPUT",
            "0.png can't be segmented or its results be written: OSError; mend that and run again",
        ),
        (OSError(28, "No space left on device"), "DISK_FULL", None),
        (
            ValueError("the name of a patient"),
            "INTERNAL",
            "0.png met a fault of the program (ValueError); please report it",
        ),
    ],
)
def test_whatever_goes_wrong_is_one_jobs_fault(
    worker: Worker, job: Job, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, reason: str | None
) -> None:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "segment", raises)
        segmenting = _do(worker, job)
    with monkeypatch.context() as patched:
        patched.setattr("monai_sa2va.batch.worker.read_image", raises)
        reading = _do(worker, job)
    for outcome in (segmenting, reading):
        assert (outcome.status, outcome.code, outcome.folder) == (Status.FAILED, code, "")
        assert reason is None or outcome.reason == reason
        assert outcome.error == f"[{code}] {outcome.reason}"


def test_earlier_results_stay_beside_a_failure_unless_given_up(worker: Worker, job: Job, pictures: Path) -> None:
    _do(worker, job)
    folder = worker.options.output_dir / job.folder
    (folder / "notes.txt").write_text("mine")
    (pictures / "0.png").write_bytes(b"torn")
    assert _do(worker, job).status is Status.FAILED
    assert (folder / "report.json").is_file()
    assert _do(Worker(worker.segmenter, replace(worker.options, overwrite=True)), job).status is Status.FAILED
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_no_line_names_a_folder(segmenter: Segmenter, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "Jane Doe"
    (out / "1").mkdir(parents=True)
    (out / "1" / "vessels.png").write_text("")
    (out / "0").write_text("")
    (out / "2").mkdir()
    (out / "2" / "report.json").write_text("{}")
    worker = Worker(segmenter, Options(out))
    errors = [_do(worker, job).error for job in plan_jobs(pictures, "vessels")]
    assert [error.split(";")[0].split(",")[0] for error in errors] == [
        "[OUTPUT] the folder '0' can't be made: a file has its name",
        "[OUTPUT] '1/vessels.png' is there already",
        "[OUTPUT] '2/report.json' of an earlier run can't be read or doesn't list its files",
    ]
    assert not any("Jane" in error for error in errors)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_apart(segmenter: Segmenter, pictures: Path, small_disk: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)).save(pictures / "0.png")
    outcome = _do(Worker(segmenter, Options(small_disk)), plan_jobs(pictures / "0.png", "vessels")[0])
    assert (outcome.status, outcome.code) == (Status.FAILED, "DISK_FULL")
    assert "No space left on device" in outcome.reason
    assert list(small_disk.iterdir()) == []
