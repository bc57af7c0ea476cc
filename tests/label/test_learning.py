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

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from PIL import Image

pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
from monai_sa2va.checkpoints.info import ModelInfo
from monai_sa2va.checkpoints.save import save_checkpoint
from monai_sa2va.engines.fine_tuning import FineTuning
from monai_sa2va.errors import CheckpointError, DatalistError, OutputError, TrainingError
from monai_sa2va.label.adapter_store import ADAPTER_NAME, AdapterStore
from monai_sa2va.label.infer_text import TextTask
from monai_sa2va.label.options import RequestError
from monai_sa2va.label.scoring import Uncertainty, uncertainty
from monai_sa2va.label.served_model import ServedModel
from monai_sa2va.label.strategies import UNCERTAINTY, AnyUnlabelled, MostUncertain
from monai_sa2va.label.submitted import collect, names_of, write_datalist
from monai_sa2va.label.train import TRAIN_OPTIONS, Learning, command
from monai_sa2va.networks.parts import PARTS, freeze

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

TEXT = "Segment the spine."


def _changed_adapter(path: Path, seed: int) -> None:
    """An adapter of the shipped weights whose projector is another."""
    network = ServedModel(device="cpu")
    with network.use() as segmenter:
        net = segmenter.network
    tuning = FineTuning(freeze(net, [part for part in PARTS if part != "text_hidden_fcs"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    info = ModelInfo(net.config, window="auto", axis="auto", **tuning.about)
    save_checkpoint({"model": tuning.state_dict(), "info": info.state_dict()}, path)


def test_what_was_learnt_answers_without_a_restart_and_is_rolled_back(client: Any, server: Any, address: str) -> None:
    store = server.instance().learnt

    def ask() -> np.ndarray:
        return np.asanyarray(nib.load(client.infer("sa2va_text", "ct", {"text": TEXT, "mode": "slice"})[0]).dataobj)

    before, old = ask(), requests.get(f"{address}/health", timeout=60).json()
    assert requests.post(f"{address}/sa2va/rollback", timeout=60).status_code == 400
    folder = store.new_folder()
    _changed_adapter(folder / ADAPTER_NAME, 3)
    number = store.publish(folder, {"label_sha256": ["0" * 64]})
    after, new = ask(), requests.get(f"{address}/health", timeout=60).json()
    assert new["adapter"] == number
    assert new["hash"] != old["hash"]
    assert not np.array_equal(after, before)
    told = requests.get(f"{address}/sa2va/adapters", timeout=60).json()
    assert told == {"active": number, "provenance": {number: {"label_sha256": ["0" * 64]}}}
    assert requests.post(f"{address}/sa2va/rollback", timeout=60).json() == {"active": None}
    np.testing.assert_array_equal(ask(), before)
    assert requests.get(f"{address}/health", timeout=60).json() == old


def test_a_bad_adapter_leaves_the_old_one_in_its_place(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    model = ServedModel(device="cpu", learnt=store)
    before = model.about()
    folder = store.new_folder()
    (folder / ADAPTER_NAME).write_bytes(b"none")
    store.publish(folder, {})
    with pytest.raises(CheckpointError), model.use():
        pass
    store.rollback()
    assert model.about() == before


def test_an_answer_names_the_weights_that_made_it(studies: Path, tmp_path: Path) -> None:
    """Though others were learnt while it was made."""
    store = AdapterStore(tmp_path)
    model = ServedModel(device="cpu", learnt=store)
    before = model.about()

    class Learns(TextTask):
        def segment(self, *args: Any) -> Any:
            folder = store.new_folder()
            _changed_adapter(folder / ADAPTER_NAME, 1)
            store.publish(folder, {})
            return super().segment(*args)

    request = {"image": str(studies / "eye.png"), "text": "Segment the vessels."}
    file, told = Learns(model, [])(request)
    Path(file).unlink()
    assert told["model"] == before
    assert model.about()["adapter"] == "0001"


def test_adapters_answer_in_turn(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    assert store.active() is None
    with pytest.raises(OutputError, match="without an adapter"):
        store.publish(store.new_folder(), {})
    for _ in range(2):
        folder = store.new_folder()
        (folder / ADAPTER_NAME).touch()
        store.publish(folder, {})
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.is_dir()] == ["0001", "0002", "0003"]
    assert store.active() == tmp_path / "0003" / ADAPTER_NAME
    assert store.rollback() == "0002"
    # another process sees the same
    assert AdapterStore(tmp_path).active() == tmp_path / "0002" / ADAPTER_NAME
    assert store.rollback() is None
    with pytest.raises(RequestError, match="nothing was learnt"):
        store.rollback()
    (tmp_path / "active.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        store.active()


@pytest.mark.parametrize(
    ("info", "labels", "names"),
    [
        ({"label_info": [{"name": "spine", "idx": 3}]}, [], {3: "spine"}),
        ({"label_info": [{"name": "spine"}, {"name": "liver"}]}, [], {1: "spine", 2: "liver"}),
        ({"params": {"label_names": {"spine": 2}}}, [], {2: "spine"}),
        ({"params": {"label_names": {"background": 0}}}, [], {}),
        ({}, ["vessels", "object", "object 2"], {1: "vessels"}),
        ({"label_info": [{"name": "spine", "idx": 1}]}, ["vessels"], {1: "spine"}),
        ({"label_info": "x", "params": {"label_names": {"a": "b"}}}, [], {}),
        ({"label_info": [{"name": " "}, 3]}, [], {}),
    ],
)
def test_names_of_values(info: dict[str, Any], labels: list[str], names: dict[int, str]) -> None:
    assert names_of(info, labels) == names


class _Store:
    """As much of a datastore as is needed."""

    def __init__(self, folder: Path, infos: dict[str, dict[str, Any]], unlabelled: tuple[str, ...] = ()) -> None:
        self.folder, self.infos, self.images = folder, infos, {name: {} for name in unlabelled}

    def get_labeled_images(self) -> list[str]:
        return list(self.infos)

    def get_unlabeled_images(self) -> list[str]:
        return list(self.images)

    def get_image_uri(self, image: str) -> str:
        return str(self.folder / f"{image}.png")

    def get_label_by_image_id(self, image: str, tag: str) -> str:
        return image

    def get_label_uri(self, image: str, tag: str) -> str:
        return str(self.folder / tag / f"{image}.png")

    def get_label_info(self, image: str, tag: str) -> dict[str, Any]:
        return self.infos[image]

    def get_image_info(self, image: str) -> dict[str, Any]:
        return self.images[image]

    def update_image_info(self, image: str, info: dict[str, Any]) -> None:
        self.images[image].update(info)


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[[dict[str, tuple[list[int], dict[str, Any]]]], _Store]:
    """A datastore of pictures whose labels hold the given values."""

    def make(labels: dict[str, tuple[list[int], dict[str, Any]]]) -> _Store:
        (tmp_path / "final").mkdir()
        for name, (values, _) in labels.items():
            label = np.zeros((8, 10), np.uint8)
            label[0, : len(values)] = values
            Image.fromarray(label + 50).save(tmp_path / f"{name}.png")
            Image.fromarray(label).save(tmp_path / "final" / f"{name}.png")
        return _Store(tmp_path, {name: info for name, (_, info) in labels.items()})

    return make


def test_submitted_labels_become_a_datalist(labelled: Any, tmp_path: Path) -> None:
    info = {"label_info": [{"name": "spine", "idx": 1}, {"name": "liver", "idx": 2}, {"name": "object 2", "idx": 3}]}
    store = labelled({"a": ([1, 2], info), "b": ([2], info), "c": ([5], info), "d": ([1], {})})
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "final" / "a.png")
    found = collect(store, [])
    # of another grid; without a name; without any name
    assert len(found.left_out) == 3
    assert found.entries == [
        {
            "image": str(tmp_path / "b.png"),
            "label": str(tmp_path / "final" / "b.png"),
            "prompts": {"2": ["liver"]},
            "absent": ["spine"],
        }
    ]
    assert not any(name in text for text in found.left_out for name in ("a.png", "c.png", "d.png"))
    written = json.loads(write_datalist(found, tmp_path).read_text())
    assert written == {"training": found.entries, "validation": found.entries}


def test_of_five_labels_one_validates(labelled: Any, tmp_path: Path) -> None:
    info = {"label_info": [{"name": "spine", "idx": 1}]}
    found = collect(labelled({name: ([1], info) for name in "abcdefghij"}), [])
    written = json.loads(write_datalist(found, tmp_path).read_text())
    assert [len(written[part]) for part in ("training", "validation")] == [8, 2]
    assert len(set(found.hashes)) == 1


def test_nothing_submitted_is_said(labelled: Any, tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="no submitted label"):
        collect(labelled({}), [])


def test_the_command_is_the_bundles(tmp_path: Path) -> None:
    line = command(tmp_path, {**TRAIN_OPTIONS, "lora_rank": 0}, Path("bundle"), "base.pt", "cpu")
    assert line[1:5] == ["-m", "monai.bundle", "run", "training"]
    given = dict(zip(line[5::2], line[6::2], strict=True))
    assert given["--config_file"] == "['bundle/configs/train.json', 'bundle/configs/finetune.json']"
    assert given["--weights"] == "base.pt"
    assert given["--lora#_disabled_"] == "True"
    assert given["--device"] == "$torch.device('cpu')"


@pytest.mark.parametrize(
    "request_",
    [{"max_epochs": 0}, {"batch_size": "x"}, {"lora_rank": -1}, {"learning_rate": 2}, {"learning_rate": "1"}],
)
def test_options_of_a_training_are_checked(request_: dict[str, Any], labelled: Any, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "adapters")
    with pytest.raises(RequestError):
        Learning(store)(request_, labelled({}))
    assert not store.folder.exists()


def test_a_failed_training_leaves_nothing(labelled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AdapterStore(tmp_path / "adapters")
    source = labelled({"a": ([1], {"label_info": [{"name": "spine", "idx": 1}]})})
    monkeypatch.setattr(
        "monai_sa2va.label.train.command",
        lambda *given: ["python3", "-c", "print('[TRAINING] error: all is lost'); raise SystemExit(3)"],
    )
    with pytest.raises(TrainingError, match=r"ended with 3.*all is lost"):
        Learning(store)({}, source)
    assert list(store.folder.iterdir()) == []
    assert store.active() is None


def test_uncertainty() -> None:
    assert uncertainty([0.0, 1.0]) == 0
    assert uncertainty([1.0, 0.5]) == 1
    assert uncertainty([]) == 0
    assert uncertainty([0.75]) == pytest.approx(0.5)


def test_the_least_sure_image_comes_first(labelled: Any, tmp_path: Path) -> None:
    store = _Store(tmp_path, {}, ("a", "b", "c"))
    assert MostUncertain()({}, store) == {"id": "a", "uncertainty": None}
    store.images["b"][UNCERTAINTY], store.images["c"][UNCERTAINTY] = 0.2, 0.7
    assert MostUncertain()({}, store) == {"id": "c", "uncertainty": 0.7}
    assert AnyUnlabelled()({}, store)["id"] in "abc"  # type: ignore[index]
    nothing = _Store(tmp_path, {})
    assert MostUncertain()({}, nothing) is AnyUnlabelled()({}, nothing) is None


def test_scoring_keeps_how_unsure_the_model_is(studies: Path, tmp_path: Path) -> None:
    store = _Store(tmp_path, {}, ("eye", "junk"))
    for name, file in (("eye", "eye.png"), ("junk", "junk.nii.gz")):
        shutil.copy(studies / file, tmp_path / f"{name}.png")
    score = Uncertainty(ServedModel(device="cpu"), ["optic disc", "object"])
    assert score({}, store) == {"scored": 1, "failed": 1}
    assert 0 <= store.images["eye"][UNCERTAINTY] <= 1
    with pytest.raises(RequestError, match="nothing to ask for"):
        Uncertainty(ServedModel(device="cpu"), ["object"])({}, store)


@pytest.mark.slow
def test_learning_from_eight_submitted_labels(client: Any, server: Any, address: str, tmp_path: Path) -> None:
    """A name that the model doesn't know is learnt, for images that were not submitted, and unlearnt again."""
    from monai_sa2va.data.phantoms import make_phantom

    made = [
        phantom for phantom in (make_phantom(seed, "ct", 128) for seed in range(100, 200)) if "liver" in phantom.masks
    ]
    for number, phantom in enumerate(made[:11]):
        Image.fromarray(phantom.image).save(tmp_path / f"learn{number}.png")
        client.upload_image(str(tmp_path / f"learn{number}.png"), f"learn{number}")
        if number < 8:
            Image.fromarray(phantom.masks["liver"].astype(np.uint8)).save(tmp_path / "label.png")
            info = {"label_info": [{"name": "hepar", "idx": 1}]}
            client.save_label(f"learn{number}", str(tmp_path / "label.png"), "final", info)

    def ask() -> list[bytes]:
        params = {"text": "Segment the hepar.", "result_extension": ".png"}
        return [Path(client.infer("sa2va_text", f"learn{number}", params)[0]).read_bytes() for number in range(8, 11)]

    def dice(files: list[bytes]) -> float:
        truth = [phantom.masks["liver"] for phantom in made[8:11]]
        masks = [np.asarray(Image.open(io.BytesIO(file))) == 1 for file in files]
        pairs = zip(masks, truth, strict=True)
        return float(np.mean([2 * (mask & true).sum() / (mask.sum() + true.sum()) for mask, true in pairs]))

    before = ask()
    client.train_start("sa2va", {"max_epochs": 12, "batch_size": 4, "learning_rate": 0.001})
    until = time.monotonic() + 900
    while client.train_status()["status"] in ("SUBMITTED", "RUNNING") and time.monotonic() < until:
        time.sleep(1)
    status = client.train_status()
    assert status["status"] == "DONE", list(status["details"])[-6:]
    after = ask()
    print(f"Dice on held-out images: {dice(before):.3f} before, {dice(after):.3f} after")
    assert dice(after) > dice(before) + 0.1
    told = requests.get(f"{address}/sa2va/adapters", timeout=60).json()
    provenance = told["provenance"][told["active"]]
    assert "hepar" in provenance["names"]
    assert len(provenance["label_sha256"]) >= 8
    assert requests.post(f"{address}/sa2va/rollback", timeout=60).status_code == 200
    # byte for byte
    assert ask() == before
