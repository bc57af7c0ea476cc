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

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.handlers import from_engine

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.engines.trainer import Sa2VATrainer
from monai_sa2va.networks.sa2va import Sa2VA


def test_the_default_settings_find_the_loss(micro_config: Sa2VAConfig, micro_samples: list[dict[str, Any]]) -> None:
    settings: Any = DEFAULT_MLFLOW_SETTINGS
    assert settings["configs"]["trainer"]["output_transform"] == "$monai.handlers.from_engine(['loss'], first=True)"
    network = Sa2VA(micro_config, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = Sa2VATrainer("cpu", 1, Sa2VADataLoader(micro_samples[:2], 2), network, optimizer)
    trainer.run()
    loss = from_engine(["loss"], first=True)(trainer.state.output)
    assert loss.item() == pytest.approx(trainer.state.step_losses["loss"])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="the tracking extra is not installed")
def test_a_run_is_tracked(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--tracking", "mlflow"]
    command += ["--config_file", str(repository / "bundle" / "configs" / "train.json"), "--bundle_root", str(tmp_path)]
    command += ["--phantom_count", "10", "--num_workers", "0", "--max_epochs", "2", "--batch_size", "2"]
    command += ["--total_steps", "4", "--warmup_steps", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'eval' / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("monai_experiment")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert {"max_epochs", "epoch_length"} <= set(run.data.params)
    micro_batches = 2 * int(run.data.params["epoch_length"])
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in history] == list(range(1, micro_batches + 1))
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val_mean_dice")] == [1, 2]
    # the configuration that ran, as an artifact
    assert [file.path.startswith("config_") for file in client.list_artifacts(run.info.run_id)] == [True]
