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

"""Scripts of ``benchmarks/`` as modules, and what a demo leaves, made small and with random weights."""

from __future__ import annotations

import importlib
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_sa2va.data.phantoms import write_phantoms
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter
from monai_sa2va.writers.results import folder_name, write_results

IMAGES, SEED, SIZE = 3, 9000, 64


@pytest.fixture(scope="package", autouse=True)
def _benchmarks_on_path(repository):
    """A script finds its neighbours, as it does when Python runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        yield


@pytest.fixture(scope="package")
def scoring(_benchmarks_on_path):
    return importlib.import_module("scoring")


@pytest.fixture(scope="package")
def segmenter():
    return Segmenter(Sa2VA("tiny", seed=0), device="cpu")


@pytest.fixture(scope="package")
def demo(tmp_path_factory, scoring, segmenter):
    """A folder as ``make demo`` leaves it before its report, read-only for tests: its network never learnt anything."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path_factory.mktemp("demo")
    write_phantoms(folder / "phantoms", 18, 0, SIZE, splits={"training": 1.0})
    write_phantoms(folder / "unseen", IMAGES, SEED, SIZE, splits={"testing": 1.0})
    (folder / "models").mkdir()
    torch.save({"model": segmenter.network.state_dict()}, folder / "models" / "model.pt")
    for case in scoring.read_cases(folder / "unseen" / "datalist.json", "testing"):
        image = folder / "unseen" / "images" / f"{case.name}.png"
        prompts = [scoring.PLAIN.format(name) for name in case.masks]
        write_results(segmenter.segment(image, prompts), folder / "masks" / folder_name(image), ("png",))
    with SummaryWriter(str(folder / "eval" / "tensorboard")) as events:
        events.add_scalar("train/loss", 2.0, 1, walltime=time.time() + 100)
        events.add_scalar("train/loss", 1.0, 2, walltime=time.time() + 400)
    (folder / "started").write_text(f"{int(time.time()) - 500}\n")
    return folder


@pytest.fixture
def knowing():
    """Makes a stand-in for a trained Segmenter: it draws the truth of the name that it finds in a sentence.

    What a trained network knows is not to be had in a test; everything else of the scripts is real.
    """

    class Knowing:
        def __init__(self, cases, misreads=()):
            self.cases, self.misreads = cases, misreads

        def segment(self, image, prompts):
            truth = next(case.masks for case in self.cases if case.picture is image)
            labels = [
                "nothing"
                if any(words in prompt for words in self.misreads)
                else max((name for name in truth if name in prompt), key=len)
                for prompt in prompts
            ]
            nothing = np.zeros(image.shape[:2], dtype=bool)
            masks = np.stack([truth.get(label, nothing) for label in labels])
            return SimpleNamespace(masks=masks, labels=labels, prompts=list(prompts))

    return Knowing
