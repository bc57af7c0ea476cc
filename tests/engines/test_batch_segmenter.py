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

"""The engine of the bundle's inference."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from PIL import Image

from monai_sa2va.data.read_image import list_images
from monai_sa2va.data.source_image import SourceImage
from monai_sa2va.engines.batch_segmenter import BatchSegmenter
from monai_sa2va.errors import ConfigError, DataError, OutputError, PromptError
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter


@pytest.fixture(scope="module")
def network() -> Sa2VA:
    return Sa2VA("tiny", seed=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (10 + number, 12)).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


class _Outputs:
    """A handler that keeps each iteration's output."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.seen.append(e.state.output))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_image_of_the_loader_is_written(
    network: Sa2VA, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    (images / "1.png").write_bytes(b"torn")
    outputs = _Outputs()
    engine = BatchSegmenter(
        device="cpu",
        val_data_loader=DataLoader(Dataset(list_images(images)), batch_size=batch_size),
        network=network,
        inferer=ImageInferer(),
        prompts=["Segment the vessels."],
        output_dir=tmp_path / "out",
        val_handlers=[outputs],
    )
    with caplog.at_level(logging.INFO):
        engine.run()
    results = [result for output in outputs.seen for result in output["results"]]
    assert [(result.image, result.folder) for result in results] == [("0.png", "0"), ("1.png", ""), ("2.png", "2")]
    assert sorted(results[0].files) == ["overview.png", "report.json", "vessels.nii.gz", "vessels.png"]
    assert "1.png: [DATA] 1.png can't be read" in caplog.text
    assert "segmented 2 of 3 images; 1 failed; results are in" in caplog.text
    assert "failed: 1.png" in caplog.text
    assert "1.png,,failed" in (tmp_path / "out" / "summary.csv").read_text()
    with pytest.raises(DataError, match=r"1 of 3 images failed, see summary\.csv"):
        engine.check_complete()

    expected = Segmenter(network, device="cpu").segment(images / "2.png", "Segment the vessels.").masks[0]
    with Image.open(tmp_path / "out" / "2" / "vessels.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask) == 255, expected)


def test_entries_may_ask_for_themselves(network: Sa2VA, images: Path, tmp_path: Path) -> None:
    entries = [
        {"image": str(images / "0.png"), "prompts": ["Segment the liver.", "Segment the spleen."]},
        {"image": str(images / "1.png")},
        {"image": str(images / "2.png"), "prompts": {"1": ["liver"]}},
    ]
    loader = DataLoader(Dataset(entries), collate_fn=list)
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out", ("png",))
    engine.run()
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert written == ["0/liver.png", "0/overview.png", "0/spleen.png", "1/overview.png", "1/vessels.png"]
    assert "prompts is a dictionary" in engine.tables.failed[0].error


def test_a_chat_is_handed_on(network: Sa2VA, images: Path, tmp_path: Path) -> None:
    loader = DataLoader(Dataset(list_images(images)[:1]))
    inferer = ImageInferer(max_new_tokens=2)
    engine = BatchSegmenter("cpu", loader, network, inferer, "vessels", tmp_path / "out", mode="chat")
    engine.run()
    # random weights: two tokens of anything, known by their number alone
    expected = engine.segmenter.segment(images / "0.png", "vessels", mode="chat")
    assert json.loads((tmp_path / "out" / "0" / "report.json").read_text())["text"] == expected.text
    assert expected.text != engine.segmenter.segment(images / "0.png", "vessels").text
    with pytest.raises(ConfigError, match="mode is 'talk'; allowed: segment, chat"):
        BatchSegmenter("cpu", loader, network, inferer, "vessels", tmp_path / "out", mode="talk")


def test_a_context_is_handed_on(network: Sa2VA, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DataLoader(Dataset(list_images(images)[:1]))
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out", context="first5")
    given: list[str | None] = []
    segment = engine.segmenter.segment

    def noted(*arguments: Any, **values: Any) -> Any:
        given.append(values["context"])
        return segment(*arguments, **values)

    monkeypatch.setattr(engine.segmenter, "segment", noted)
    engine.run()
    assert given == ["first5"]
    assert not engine.tables.failed
    with pytest.raises(ConfigError, match="context is 'last5'; allowed: sweep, uniform, first5, or none"):
        BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out", context="last5")


def test_a_second_run_goes_on_from_the_first(
    network: Sa2VA, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = BatchSegmenter(
        "cpu", DataLoader(Dataset(list_images(images))), network, ImageInferer(), "vessels", tmp_path / "out"
    )
    engine.run()
    first = _files(tmp_path / "out")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("report.json")}
    with caplog.at_level(logging.INFO):
        engine.run()
    engine.check_complete()
    assert "segmented 3 of 3 images, 3 of them by an earlier run" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("report.json")} == written
    assert _files(tmp_path / "out") == first
    assert len((tmp_path / "out" / "summary.csv").read_text().strip().splitlines()) == 4
    tables = ["objects.csv", "run.json", "summary.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1", "2", *tables]
    again = BatchSegmenter(
        "cpu", DataLoader(Dataset(list_images(images))), network, ImageInferer(), "liver", tmp_path / "out"
    )
    again.run()
    assert again.tables.earlier == 0
    # what another question found gives way as a whole
    assert not list((tmp_path / "out").rglob("vessels*"))
    assert len(list((tmp_path / "out").rglob("liver.nii.gz"))) == 3


def _files(folder: Path) -> dict[str, bytes]:
    names = [path for path in folder.rglob("*") if path.is_file() and not path.match("run*.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def test_an_interrupted_run_leaves_its_tables(
    network: Sa2VA, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(Dataset(list_images(images)))
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out")
    segment = engine.segmenter.segment

    def interrupted(image: SourceImage, *arguments: Any, **options: Any) -> Any:
        if image.name == "1.png":
            raise KeyboardInterrupt
        return segment(image, *arguments, **options)

    monkeypatch.setattr(engine.segmenter, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    rows = (tmp_path / "out" / "summary.csv").read_text().strip().splitlines()
    assert [row.split(",")[0] for row in rows] == ["image", "0.png"]


def test_a_terminated_run_leaves_its_tables(
    network: Sa2VA, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(Dataset(list_images(images)))
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out")
    segment = engine.segmenter.segment

    def terminated(image: Any, *arguments: Any, **options: Any) -> Any:
        if image.name == "1.png":
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, "the signal would kill the tests"
            signal.raise_signal(signal.SIGTERM)
        return segment(image, *arguments, **options)

    monkeypatch.setattr(engine.segmenter, "segment", terminated)
    with pytest.raises(SystemExit) as ended:
        engine.run()
    assert ended.value.code == 143
    rows = (tmp_path / "out" / "summary.csv").read_text().strip().splitlines()
    assert [row.split(",")[0] for row in rows] == ["image", "0.png"]
    # a run that has nothing yet leaves them
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out")
    monkeypatch.setattr(engine.segmenter, "segment", lambda *_, **__: terminated(SimpleNamespace(name="1.png")))
    with pytest.raises(SystemExit):
        engine.run()
    assert (tmp_path / "out" / "summary.csv").read_text().strip().splitlines() == rows


def test_shards_share_a_folder(network: Sa2VA, images: Path, tmp_path: Path) -> None:
    def run(out: str, shard: str | None) -> None:
        loader = DataLoader(Dataset(list_images(images)))
        BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / out, shard=shard).run()

    run("whole", None)
    for shard in ("1/2", "2/2"):
        run("parts", shard)
    whole = {name: content for name, content in _files(tmp_path / "whole").items() if "/" in name}
    parts = _files(tmp_path / "parts")
    assert {name for name in parts if "/" not in name} == {
        f"{table}.{number}-of-2.csv" for table in ("summary", "objects") for number in (1, 2)
    }
    assert _untimed(parts) == _untimed(whole)


def _untimed(files: dict[str, bytes]) -> dict[str, Any]:
    reports = {name: json.loads(content) for name, content in files.items() if name.endswith("report.json")}
    for report in reports.values():
        report["run"].pop("seconds")
    return {**{name: content for name, content in files.items() if "/" in name}, **reports}


def test_it_is_built_from_json(images: Path, tmp_path: Path) -> None:
    config = {
        "network_def": {"_target_": "monai_sa2va.networks.sa2va.Sa2VA", "config": "tiny", "seed": 0},
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": "monai_sa2va.data.read_image.list_images",
                "where": str(images),
                "pattern": "[01].png",
            },
        },
        "inferer": {"_target_": "monai_sa2va.inferers.image.ImageInferer", "max_prompts": 4},
        "evaluator": {
            "_target_": "monai_sa2va.engines.batch_segmenter.BatchSegmenter",
            "device": "$torch.device('cpu')",
            "val_data_loader": {"_target_": "DataLoader", "dataset": "@dataset"},
            "network": "@network_def",
            "inferer": "@inferer",
            "prompts": ["vessels", "optic disc"],
            "output_dir": str(tmp_path / "out"),
            "formats": ["png"],
            "window": "dtype",
            "axis": "sagittal",
        },
    }
    parser = ConfigParser(config)
    parser.update({"imports": ["$import torch"]})
    parser.get_parsed_content("imports")
    evaluator = parser.get_parsed_content("evaluator")
    assert evaluator.segmenter.stack.axis == "sagittal"
    evaluator.run()
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert written == [f"{n}/{name}.png" for n in (0, 1) for name in ("optic_disc", "overview", "vessels")]


def test_autocast_is_the_engines(network: Sa2VA, images: Path, tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    hook = network.text_hidden_fcs.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    loader = DataLoader(Dataset(list_images(images / "0.png")))
    try:
        for amp in (False, True):
            BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / str(amp), amp=amp).run()
    finally:
        hook.remove()
    assert seen == [torch.float32, torch.bfloat16]


def test_bad_arguments(network: Sa2VA, images: Path, tmp_path: Path) -> None:
    loader = DataLoader(Dataset(list_images(images)))
    (tmp_path / "file").write_text("")
    for error, changed in (
        (PromptError, {"prompts": ""}),
        (PromptError, {"prompts": []}),
        (ConfigError, {"formats": ["jpeg"]}),
        (ConfigError, {"window": "x"}),
        (ConfigError, {"axis": "x"}),
        (OutputError, {"output_dir": tmp_path / "file"}),
    ):
        arguments: dict[str, Any] = {
            "device": "cpu",
            "val_data_loader": loader,
            "network": network,
            "inferer": ImageInferer(),
            "prompts": "vessels",
            "output_dir": tmp_path / "out",
            **changed,
        }
        with pytest.raises(error):
            BatchSegmenter(**arguments)


def test_a_run_without_any_result_fails(network: Sa2VA, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"torn")
    loader = DataLoader(Dataset([{"image": str(tmp_path / "torn.png")}, {"image": str(tmp_path / "gone.png")}]))
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out")
    with pytest.raises(DataError, match=r"none of 2 images could be segmented, the first because: .*torn\.png can't"):
        engine.run()
    assert len((tmp_path / "out" / "summary.csv").read_text().strip().splitlines()) == 3


def test_loaded_images_are_refused(network: Sa2VA, tmp_path: Path) -> None:
    loader = DataLoader(Dataset([{"image": torch.zeros(1, 4, 4)}]))
    engine = BatchSegmenter("cpu", loader, network, ImageInferer(), "vessels", tmp_path / "out")
    with pytest.raises(DataError, match="a batch has no path under 'image'"):
        engine.run()
