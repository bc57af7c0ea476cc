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

"""Loading weights strictly."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from monai_sa2va.checkpoints.load import load_weights, read_weights
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.errors import CheckpointError
from monai_sa2va.networks.sa2va import Sa2VA


def _network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))


@pytest.mark.parametrize("kind", ["plain.pt", "wrapped.pt", "plain.safetensors"])
def test_every_kind_of_file_loads(tmp_path: Path, kind: str) -> None:
    source, path = _network(), tmp_path / kind
    state = source.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 3} if "wrapped" in kind else state, path)
    target = _network()
    load_weights(target, path)
    inputs = torch.rand(4, 2)
    assert torch.equal(source(inputs), target(inputs))


def test_misfits_are_counted_and_named(tmp_path: Path) -> None:
    state = {
        "0.weight": torch.zeros(5, 2),
        "0.bias": torch.zeros(3),
        **{f"extra.{number}": torch.zeros(1) for number in range(5)},
    }
    torch.save(state, tmp_path / "odd.pt")
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, tmp_path / "odd.pt")
    message = str(caught.value)
    assert message == (
        "[CHECKPOINT] odd.pt doesn't fit this network: 2 keys missing (1.bias, 1.weight); "
        "5 keys unexpected (extra.0, extra.1, extra.2, ...); "
        "1 keys of another shape (0.weight (5, 2) instead of (3, 2)). "
        "Give the checkpoint that was trained with this bundle's network_def"
    )
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("torn.pt", b"PK\x03\x04 not a whole archive", "torn.pt can't be read as a checkpoint"),
        ("empty.pt", b"", "empty.pt can't be read as a checkpoint"),
        ("text.safetensors", b"hello", "text.safetensors can't be read as a checkpoint"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (marker,))  # type: ignore[return-value]

    with (tmp_path / "evil.pt").open("wb") as stream:
        pickle.dump(Payload(), stream, protocol=2)
    with pytest.raises(CheckpointError, match="can't be read"):
        read_weights(tmp_path / "evil.pt")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["code", "text", "script"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*TorchScript archive:UserWarning")
def test_no_advice_of_torch_to_run_the_code_of_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "wrong.pt"
    if kind == "code":
        torch.save({"model": _network(), "where": tmp_path}, path)
    elif kind == "text":
        path.write_text("what somebody wrote\n")
    else:
        torch.jit.save(torch.jit.trace(_network(), torch.zeros(1, 2)), path)
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert str(caught.value) == (
        "[CHECKPOINT] wrong.pt can't be read as a checkpoint: it is damaged, or holds more than tensors, and code in "
        "it is never run; give a state dictionary that torch.save wrote, or a .safetensors file"
    )


def test_missing_and_wrong_content(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint '.*nowhere\.pt'"):
        read_weights(tmp_path / "nowhere.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(CheckpointError, match="holds no state dictionary"):
        read_weights(tmp_path / "epoch.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds no state dictionary"):
        read_weights(tmp_path / "list.pt")


def test_another_setting_of_sam2_is_said(
    micro_config: Sa2VAConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, path = Sa2VA(micro_config, seed=0), tmp_path / "model.pt"
    content = {"model": network.state_dict(), "info": {"config": micro_config.to_dict()}}
    torch.save(content, path)
    load_weights(network, path)
    assert not caplog.records
    marked = replace(micro_config, grounding=replace(micro_config.grounding, click_mark=2.0))
    content["info"] = {"config": marked.to_dict()}
    torch.save(content, path)
    load_weights(network, path)
    (record,) = caplog.records
    assert record.getMessage().startswith("model.pt was trained with grounding.click_mark 2.0 instead of 0.0; to keep")
