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


"""Names, numbers and birth dates are planted wherever an input can hold them, and looked for in all that comes out."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.cli.main import app
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.sa2va import Sa2VA

NAME, NUMBER, BORN = WORDS = ("DOE^JANE", "MRN-4711", "1961-02-03")
TOLD = f"{NAME} {NUMBER} *{BORN}"
SIDE = 32

runner = CliRunner()


class Output:
    """What a run leaves and says."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self.folder, self._capfd, self._caplog = folder, capfd, caplog
        self.said = ""
        self.warned: list[warnings.WarningMessage] = []

    def all_said(self) -> str:
        """Standard output and error, records of all loggers at DEBUG, and warnings."""
        self.said += "".join(self._capfd.readouterr())
        return self.said + self._caplog.text + "".join(str(warning.message) for warning in self.warned)

    def files(self) -> dict[str, bytes]:
        """Name below the folder -> its bytes, unpacked where they are packed, and a picture's texts."""
        found: dict[str, bytes] = {}
        for path in self.folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                if path.suffix == ".gz":
                    content += gzip.decompress(content)
                if path.suffix == ".png":
                    with Image.open(path) as picture:
                        content += repr((picture.info, dict(picture.getexif()))).encode()
                found[path.relative_to(self.folder).as_posix()] = content
        return found

    def told(self) -> list[str]:
        """Where one of the words is: names of files, and ``said``."""
        leaks = [name for name, content in self.files().items() for w in WORDS if w in name or w.encode() in content]
        return sorted({*leaks, *("said" for word in WORDS if word in self.all_said())})


@pytest.fixture
def out(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Output]:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        output = Output(tmp_path / "out", capfd, caplog)
        output.warned = warned
        yield output


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, micro_config: Sa2VAConfig) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    info = ModelInfo(micro_config, window="auto", axis="auto").state_dict()
    torch.save({"model": Sa2VA(micro_config, seed=0).state_dict(), "info": info}, path)
    return path


def _bundle(folder: Path, weights: Path, config: Sa2VAConfig) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text("{}")
    network = {"_target_": "monai_sa2va.networks.sa2va.Sa2VA", "config": config.to_dict()}
    inference = {"bundle_root": ".", "checkpoint": str(weights), "network_def": network}
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    return folder


def _exif() -> Image.Exif:
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298):  # ImageDescription, Artist, Copyright
        exif[tag] = TOLD
    return exif


def _volume(affine: np.ndarray) -> nibabel.Nifti1Image:
    values = np.zeros((SIDE, SIDE, 2), np.int16)
    values[8:20, 8:20] = 100
    volume = nibabel.Nifti1Image(values, affine)
    for field, text in (("descrip", TOLD), ("aux_file", NUMBER), ("db_name", NAME), ("intent_name", BORN)):
        volume.header[field] = text.encode()
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", TOLD.encode()))
    return volume


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder named after a patient, with a file of each kind that says who she is, and torn ones."""
    folder = tmp_path / "data" / NAME / NUMBER
    folder.mkdir(parents=True)
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[8:20, 8:20] = 200
    picture = Image.fromarray(grey)
    note = PngInfo()
    note.add_text("Comment", TOLD)
    note.add_text("PatientName", NAME, zip=True)
    note.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{TOLD}</x:xmpmeta>")
    picture.save(folder / "eye.png", pnginfo=note, exif=_exif())
    picture.save(folder / "skin.jpg", comment=TOLD, exif=_exif())
    picture.save(folder / "cells.tif", description=TOLD, artist=NAME)
    nibabel.save(_volume(np.diag([1.0, 1.0, 3.0, 1.0])), folder / "ct.nii.gz")
    nrrd.write(
        str(folder / "mr.nrrd"),
        np.asarray(_volume(np.eye(4)).dataobj),
        {
            "space": "left-posterior-superior",
            "space directions": np.eye(3),
            "space origin": np.zeros(3),
            "content": TOLD,
            "PatientName": NAME,
        },
    )
    for name in ("eye.png", "skin.jpg", "cells.tif", "ct.nii.gz", "mr.nrrd"):
        torn, suffix = (folder / name).read_bytes(), name.partition(".")[2]
        (folder / f"torn.{suffix}").write_bytes(torn[: len(torn) * 2 // 3])
    return folder


@pytest.fixture
def datalist(images: Path) -> Path:
    """Below it the folders of the patient, in its entries all that people write into such lists."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[8:20, 8:20] = 1
    root = images.parents[1]
    (root / NAME / "labels").mkdir()
    Image.fromarray(label).save(root / NAME / "labels" / "flat.png", description=TOLD)
    volume = _volume(np.diag([1.0, 1.0, 3.0, 1.0]))
    mask = nibabel.Nifti1Image((np.asarray(volume.dataobj) > 0).astype(np.uint8), volume.affine, volume.header)
    mask.set_data_dtype(np.uint8)
    nibabel.save(mask, root / NAME / "labels" / "deep.nii.gz")
    who = {"patient": NAME, "PatientID": NUMBER, "PatientBirthDate": BORN, "name": NAME, "comment": TOLD}
    entries = [
        {
            "image": f"{NAME}/{NUMBER}/{image}",
            "label": f"{NAME}/labels/{label}",
            "prompts": {"1": "cyst"},
            **who,
            "group": NUMBER,
        }
        for image, label in (("eye.png", "flat.png"), ("cells.tif", "flat.png"), ("ct.nii.gz", "deep.nii.gz"))
    ]
    entries.append({**entries[0], "image": f"{NAME}/{NUMBER}/skin.jpg", "patient": f"{NAME}-2"})
    torn = {**entries[0], "image": f"{NAME}/{NUMBER}/torn.png"}
    content = {
        "name": TOLD,
        "training": entries,
        "validation": entries[:2],
        "testing": [*entries, torn],
        "torn": [torn],
        "gone": [{**entries[0], "image": f"{NAME}/{NUMBER}/gone.png"}],
    }
    path = root / "datalist.json"
    path.write_text(json.dumps(content))
    return path


def _configured(repository: Path, config: str, **values: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(repository / "bundle" / "configs" / f"{config}.json"))
    parser.update(values)
    parser.parse()
    return parser


@pytest.fixture
def configured(repository: Path, weights: Path, datalist: Path, out: Output) -> Callable[..., ConfigParser]:
    def make(config: str, **values: Any) -> ConfigParser:
        common = {
            "dataset_dir": str(datalist.parent),
            "datalist": str(datalist),
            "output_dir": str(out.folder),
            "device": "$torch.device('cpu')",
            "amp": False,
        }
        if config != "train":
            common["checkpoint"] = str(weights)
        return _configured(repository, config, **{**common, **values})

    return make


# --- segment


@pytest.mark.parametrize("asked", [False, True])
def test_segmenting(
    images: Path, weights: Path, micro_config: Sa2VAConfig, tmp_path: Path, out: Output, asked: bool
) -> None:
    words = ["segment", str(images), "-p", "cyst", "-o", str(out.folder), "--device", "cpu"]
    words += ["--bundle", str(_bundle(tmp_path / "bundle", weights, micro_config))]
    result = runner.invoke(app, words + ["--include-patient"] * asked)
    out.said += result.output
    # five files are read, and five torn ones
    assert result.exit_code == 1, result.output
    assert "segmented 5 of 10 images" in result.stdout
    files = out.files()
    assert {"summary.csv", "eye/report.json", "eye/overview.png", "ct/cyst.nii.gz", "mr/cyst.nii.gz"} <= set(files)
    if not asked:
        assert out.told() == []
        assert "patient" not in json.loads(files["ct/report.json"])
        return
    # what was promised, and no more: the header's texts, and folders in messages
    assert out.told() == ["ct/cyst.nii.gz", "ct/report.json", "said"]
    report = json.loads(files["ct/report.json"])
    assert report["patient"] is None
    assert report["header"] == {"descrip": TOLD, "aux_file": NUMBER, "db_name": NAME, "intent_name": BORN}
    header = nibabel.load(out.folder / "ct" / "cyst.nii.gz").header
    assert header["db_name"].item() == NAME.encode()
    assert not header.extensions
    assert f"{images / 'torn.png'}: [DATA] torn.png can't be read: " in result.stderr


@pytest.mark.parametrize("asked", [False, True])
def test_inference_by_a_datalist(configured: Callable[..., ConfigParser], out: Output, asked: bool) -> None:
    # one of the five images is torn, which the run says when all else is written
    with pytest.raises(RuntimeError):
        configured("inference", include_patient=asked).get_parsed_content("inference")
    files = out.files()
    assert {"summary.csv", "eye/report.json", "ct/cyst.nii.gz"} <= set(files)
    assert "torn.png: [DATA] torn.png can't be read" in out.all_said()
    if not asked:
        assert out.told() == []
        return
    names = ("cells", "ct", "eye", "skin")
    assert out.told() == sorted(["ct/cyst.nii.gz", *(f"{name}/report.json" for name in names)])
    reports = {name: json.loads(files[f"{name}/report.json"]) for name in names}
    assert [reports[name]["patient"] for name in names] == [NAME, NAME, NAME, f"{NAME}-2"]
    assert reports["eye"]["header"] == {}


# --- DICOM


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A CT of three slices, a film and a torn file, in folders that name the patient, as the files' headers do."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    made = importlib.import_module("made")
    places = ("InstitutionName", "OtherPatientIDs", "PatientComments", "SeriesDescription", "OperatorsName")
    who = {"PatientName": NAME, "PatientID": NUMBER, **dict.fromkeys(places, TOLD)}
    folder = tmp_path / NAME
    made.write(folder / NUMBER / "ct", made.series(3, rows=SIDE, columns=SIDE, **who))
    made.write(folder / NUMBER / BORN, [made.cine(3, rows=SIDE, columns=SIDE, **who)])
    (folder / NUMBER / "torn.dcm").write_bytes(bytes(128) + b"DICM" + TOLD.encode())
    return folder


def _check_dicom(out: Output) -> None:
    """The patient's name and ID are in the DICOM objects, and nowhere else."""
    files = out.files()
    objects = [name for name in files if name.endswith(".dcm")]
    assert sorted(Path(name).name for name in objects) == ["rtstruct.dcm", "seg.dcm", "seg.dcm"]
    assert set(out.told()) == set(objects)
    for name in objects:
        assert TOLD.encode() not in files[name]
        assert BORN.encode() not in files[name]
        assert NAME.encode() in files[name]


@pytest.mark.parametrize("asked", [False, True])
def test_segmenting_dicom(
    scans: Path, weights: Path, micro_config: Sa2VAConfig, tmp_path: Path, out: Output, asked: bool
) -> None:
    words = ["segment", str(scans), "-p", "cyst", "-o", str(out.folder), "--device", "cpu"]
    words += ["--bundle", str(_bundle(tmp_path / "bundle", weights, micro_config)), "--format", "dicom-seg,rtstruct"]
    result = runner.invoke(app, words + ["--include-patient"] * asked)
    out.said += result.output
    assert "segmented 2 of 3 images" in result.stdout, result.output
    _check_dicom(out)


def test_inference_of_a_folder_of_dicom(configured: Callable[..., ConfigParser], scans: Path, out: Output) -> None:
    settings = {"dataset_dir": str(scans), "datalist": None, "prompts": ["cyst"], "formats": ["dicom-seg", "rtstruct"]}
    configured("inference", **settings).get_parsed_content("inference")
    assert "highdicom" not in out.all_said()
    _check_dicom(out)


# --- evaluate


@pytest.mark.parametrize("asked", [False, True])
def test_evaluating(configured: Callable[..., ConfigParser], out: Output, asked: bool) -> None:
    with pytest.raises(RuntimeError):
        configured("evaluate", include_patient=asked, resamples=10).get_parsed_content("evaluating")
    assert set(out.files()) == {"cases.csv", "metrics.json", "cases.png"}
    assert "evaluated 4 images, 1 failed" in out.all_said()
    with (out.folder / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["group"] for row in rows] == ["1", "1", "1", "2", "1"]
    assert rows[4]["error"].startswith("[DATA] torn.png can't be read: ")
    if asked:
        assert out.told() == ["cases.csv"]
        assert list(rows[0])[2:5] == ["group", "patient", "prompt"]
        assert [row["patient"] for row in rows] == [NAME, NAME, NAME, f"{NAME}-2", NAME]
    else:
        assert out.told() == []
        assert "patient" not in rows[0]


# --- train


@pytest.fixture
def trained(configured: Callable[..., ConfigParser], micro_config: Sa2VAConfig, out: Output) -> Iterator[Any]:
    def make(**values: Any) -> ConfigParser:
        settings = {
            "preset": micro_config.to_dict(),
            "ckpt_dir": str(out.folder / "models"),
            "mask_size": 16,
            "batch_size": 2,
            "accumulation_steps": 1,
            "num_workers": 0,
            "warmup_steps": 1,
            "max_epochs": 1,
            "total_steps": "$@max_epochs * @steps_per_epoch",
            "log_interval": 1,
        }
        return configured("train", **{**settings, **values})

    yield make
    set_determinism(None)


def test_training(trained: Callable[..., ConfigParser], out: Output) -> None:
    parser = trained(save_interval=1)
    parser.get_parsed_content("initialize")
    parser.get_parsed_content("training")
    files = set(out.files())
    assert "models/model.pt" in files
    assert any(name.startswith("models/resume_") for name in files)
    assert any(name.startswith("tensorboard/events") for name in files)
    assert "epoch 1 step 1: " in out.all_said()
    assert out.told() == []


@pytest.mark.parametrize("section", ["torn", "gone"])
def test_training_that_ends_in_an_error(
    trained: Callable[..., ConfigParser], datalist: Path, out: Output, section: str
) -> None:
    content = json.loads(datalist.read_text())
    datalist.write_text(json.dumps({"training": content[section]}))
    with pytest.raises(Exception, match=r".") as raised:
        trained().get_parsed_content("training")
    # MONAI's command shows all of it, the causes among it
    text = "".join(traceback.format_exception(raised.value))
    assert f"{section}.png" in text
    assert not [word for word in WORDS if word in text]
    assert out.told() == []


# --- check and datalist


@pytest.mark.parametrize("kind", ["train", "inference", "evaluate"])
def test_checking(repository: Path, weights: Path, datalist: Path, out: Output, kind: str) -> None:
    config = repository / "bundle" / "configs" / f"{kind}.json"
    words = ["check", kind, "--config_file", str(config), "--device", "cpu", "--amp", "False"]
    words += ["--dataset_dir", str(datalist.parent), "--datalist", str(datalist), "--output_dir", str(out.folder)]
    words += ["--ckpt_dir", str(out.folder)] if kind == "train" else ["--checkpoint", str(weights)]
    result = runner.invoke(app, words)
    out.said += result.output
    assert "cyst" in result.stdout or kind == "inference"
    assert out.told() == []
    content = json.loads(datalist.read_text())
    for section in ("torn", "gone"):
        datalist.write_text(json.dumps(dict.fromkeys(("training", "testing"), content[section])))
        result = runner.invoke(app, words)
        out.said += result.output
        assert result.exit_code == 1
        assert f"{section}.png" in result.stdout
        assert out.told() == []


@pytest.mark.parametrize("asked", [False, True])
def test_making_a_datalist(images: Path, tmp_path: Path, out: Output, asked: bool) -> None:
    masks = tmp_path / "masks" / NAME / NUMBER
    masks.mkdir(parents=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:20, 8:20] = 255
    for name in ("eye", "torn", "cells_1", "cells_2"):
        Image.fromarray(mask).save(masks / f"{name}.png")
    for name in ("cells_1", "cells_2"):
        (images / f"{name}.tif").write_bytes((images / "cells.tif").read_bytes())
    (images / "cells.tif").unlink()
    words = ["datalist", str(tmp_path / "data"), str(tmp_path / "masks"), "-p", "cyst", "--split", "0.7/0/0.3"]
    result = runner.invoke(app, [*words, "-o", str(out.folder / "d.json"), *["--include-patient"] * asked])
    out.said += result.output
    # files are left out: torn ones, and those without a mask
    assert result.exit_code == 1, result.output
    shown = "".join(result.stderr.replace("│", "").split())
    assert "torn.png" in shown
    assert (NAME in shown) == asked
    # a list of files names files, with the folders they lie in, and nothing else says who they show
    written = json.loads((out.folder / "d.json").read_text())
    entries = [entry for section in written.values() for entry in section]
    assert len(entries) == 3
    for entry in entries:
        assert NAME in entry.pop("image")
        assert NAME in entry.pop("label")
        assert entry == {"prompts": {"255": ["cyst"]}}
    assert BORN not in (out.folder / "d.json").read_text()
    assert ("said" in out.told()) == asked
