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

"""Fixtures shared by all tests; the only place that knows where data outside the repository may lie."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from monai_sa2va.config import Sa2VAConfig

REPOSITORY = Path(__file__).resolve().parents[1]

# Derandomised, so that a failure is the same everywhere; no deadline, as the first call of a torch function is slow.
settings.register_profile(
    "monai_sa2va",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("monai_sa2va")


# of a checkpoint, whole or in shards; every other file beside it is a case
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
# beside the checkout, where the variable isn't set
OUTSIDE = {
    "SA2VA_ORACLE_DIR": REPOSITORY.parent / "shared" / "oracle",
    "SA2VA_DATA_DIR": REPOSITORY.parent / "shared" / "data",
}


def _outside_folder(variable: str) -> Path | str:
    """The folder that an environment variable names, else the default; where it is absent, the reason to skip."""
    named = os.environ.get(variable)
    folder = Path(named) if named else OUTSIDE[variable]
    if not folder.is_dir():
        return f"{variable} is {'set to ' + named if named else 'not set'} and no such folder is there"
    return folder.resolve()


def _required_folder(variable: str) -> Path:
    folder = _outside_folder(variable)
    if isinstance(folder, str):
        pytest.skip(folder)
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each case, or each checkpoint, of the oracle, whatever their number and names.

    ``checkpoint_folder`` holds a ``config.json``; ``case_file`` is a safetensors file beside one, but for the weights.
    """
    wanted = {"case_file", "checkpoint_folder"} & set(metafunc.fixturenames)
    if not wanted:
        return
    name = wanted.pop()
    root = _outside_folder("SA2VA_ORACLE_DIR")
    if isinstance(root, str):
        metafunc.parametrize(name, [pytest.param(None, marks=pytest.mark.skip(reason=root))])
        return
    found = sorted(config.parent for config in root.rglob("config.json"))
    if name == "case_file":
        files = [file for folder in found for file in sorted(folder.glob("*.safetensors"))]
        found = [file for file in files if not _WEIGHTS.fullmatch(file.name)]
    metafunc.parametrize(name, found, ids=[str(path.relative_to(root).with_suffix("")) for path in found])


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_worker() -> None:
    """Keep the workers of pytest-xdist from fighting for the cores; a single process keeps all of them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout: where ``pyproject.toml`` and ``bundle/`` lie."""
    return REPOSITORY


@pytest.fixture(scope="session")
def oracle_dir() -> Path:
    """Reference numbers and tiny checkpoints: ``SA2VA_ORACLE_DIR``, else ``../shared/oracle`` beside the checkout."""
    return _required_folder("SA2VA_ORACLE_DIR")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Public images with their licences: ``SA2VA_DATA_DIR``, else ``../shared/data`` beside the checkout."""
    return _required_folder("SA2VA_DATA_DIR")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for each test."""
    return np.random.default_rng(20240725)


@pytest.fixture(scope="session")
def micro_config() -> Sa2VAConfig:
    """The smallest whole Sa2VA (some 600,000 parameters): every part is there, a forward pass takes milliseconds."""
    from monai_sa2va.config import GroundingConfig, Sa2VAConfig, TextConfig, VisionConfig

    return Sa2VAConfig(
        name="micro",
        vision=VisionConfig(32, 1, 2, 48, image_size=28, layer_scale_init=1.0, initializer_range=0.2),
        text=TextConfig("qwen2", 267, 32, 2, 4, 2, 48, max_position_embeddings=512, initializer_range=0.2),
        grounding=GroundingConfig(
            image_size=64,
            hidden_dim=32,
            mem_dim=16,
            embed_dim=16,
            num_heads=1,
            stages=(1, 1, 2, 1),
            global_att_blocks=(3,),
            window_spec=(8, 4, 4, 2),
            feedforward_dim=32,
            iou_head_hidden_dim=32,
            memory_layers=1,
            memory_feedforward_dim=32,
            round_constants_to_bf16=False,
        ),
        projector_hidden=32,
        answer_form="named",
        max_tiles=2,
    )


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, micro_config: Sa2VAConfig) -> Path:
    """A bundle for inference with random weights; tests may not write to it."""
    import json

    import torch

    from monai_sa2va.networks.sa2va import Sa2VA

    folder = tmp_path_factory.mktemp("bundle")
    for part in ("configs", "models"):
        (folder / part).mkdir()
    (folder / "configs" / "metadata.json").write_text("{}")
    network = {"_target_": "monai_sa2va.networks.sa2va.Sa2VA", "config": micro_config.to_dict(), "seed": 1}
    inference = {
        "bundle_root": ".",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "network_def": network,
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    torch.save({"model": Sa2VA(micro_config, seed=0).state_dict()}, folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="session")
def micro_qwens(micro_config: Sa2VAConfig) -> dict[str, Sa2VAConfig]:
    """The same with Qwen's multimodal LLMs, by family: 2 to 24 tokens a picture."""
    from dataclasses import replace

    from monai_sa2va.config import TextConfig
    from monai_sa2va.qwen_config import Qwen3VisionConfig, Qwen25VisionConfig

    size, pixels = (32, 2, 2, 48, 4), {"min_pixels": 2 * 64, "max_pixels": 24 * 64}
    drawn = {"initializer_range": 0.2}
    vision25 = Qwen25VisionConfig(*size, window_size=16, full_attention_layers=(1,), **drawn)
    vision3 = Qwen3VisionConfig(*size, num_position_embeddings=16, deepstack_layers=(0, 1), **drawn)
    shape = (267, 32, 2, 4, 2, 48, 512)
    text25 = TextConfig("qwen2_5_vl_text", *shape, rope_scaling={"mrope_section": [2, 1, 1]}, **drawn)
    text3 = TextConfig("qwen3_vl_text", *shape, rope_scaling={"mrope_section": [4, 2, 2]}, head_dim=16, **drawn)
    return {
        "qwen2_5_vl": replace(micro_config, family="qwen2_5_vl", vision=vision25, text=text25, **pixels),
        "qwen3_vl": replace(
            micro_config, family="qwen3_vl", vision=vision3, text=text3, seg_state="pre_norm", **pixels
        ),
    }


@pytest.fixture(scope="session")
def micro_samples(micro_config: Sa2VAConfig) -> list[dict[str, Any]]:
    """Eight samples as collation takes them, of 0 to 3 objects, 1 or 3 tiles, answers of unequal length."""
    import torch

    from monai_sa2va.data.tokenizer import byte_tokenizer
    from monai_sa2va.transforms.processor import Sa2VAProcessor
    from monai_sa2va.transforms.sentences import answer_segments

    random = np.random.default_rng(7)
    processor = Sa2VAProcessor(micro_config, byte_tokenizer())
    samples = []
    for number, count in enumerate((1, 3, 0, 2, 1, 1, 2, 3)):
        picture = random.integers(0, 256, (32, 64 if number % 3 == 0 else 32, 3), dtype=np.uint8)
        names = ["vessels", "optic disc", "a very long name of a small structure"][:count]
        turns = [(f"Segment the {name}.", answer_segments([name])) for name in names]
        sample: dict[str, Any] = processor(picture, turns or [("Is there a nodule?", ["No."])])
        sample["gt_masks"] = torch.from_numpy(random.random((count, 24, 24)) < 0.3).to(torch.uint8)
        sample["frames_per_batch"] = 1
        samples.append(sample)
    return samples
