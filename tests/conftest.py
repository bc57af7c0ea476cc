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
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

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


def _outside_folder(variable: str, default: Path) -> Path:
    """The folder that an environment variable names, else the default; the test is skipped where it is absent."""
    named = os.environ.get(variable)
    folder = Path(named) if named else default
    if not folder.is_dir():
        pytest.skip(f"{variable} is {'set to ' + named if named else 'not set'} and no such folder is there")
    return folder.resolve()


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
    return _outside_folder("SA2VA_ORACLE_DIR", REPOSITORY.parent / "shared" / "oracle")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Public images with their licences: ``SA2VA_DATA_DIR``, else ``../shared/data`` beside the checkout."""
    return _outside_folder("SA2VA_DATA_DIR", REPOSITORY.parent / "shared" / "data")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for each test."""
    return np.random.default_rng(20240725)
