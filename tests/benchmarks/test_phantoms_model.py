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

"""``benchmarks/phantoms.py model``: does the network look at the sentence?"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.errors import DataError


@pytest.fixture(scope="module")
def benchmark(scoring):
    return importlib.import_module("phantoms")


@given(st.lists(st.text(), min_size=2, max_size=6, unique=True), st.integers(0, 2**32 - 1))
def test_other_names_leave_none_in_its_place(benchmark, names, seed):
    others = benchmark.other_names(names, np.random.default_rng(seed))
    assert sorted(others) == sorted(names)
    assert all(a != b for a, b in zip(names, others, strict=True))


def test_a_network_that_reads_the_name_loses_everything(benchmark, scoring, knowing):
    cases = scoring.make_cases(6, 9000, 64)
    right, wrong = benchmark.exchange_names(knowing(cases), cases, 0)
    assert set(right.by_name.values()) == {1.0}
    assert set(wrong.by_name.values()) == {0.0}  # the structures of a phantom are disjoint
    assert (
        wrong.counts
        == right.counts
        == {name: sum(name in case.masks for case in cases) for case in cases for name in case.masks}
    )


def test_a_network_that_ignores_the_name_loses_nothing(benchmark, scoring, knowing):
    picture, mask = np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=bool)
    case = scoring.Case("ct_000001", picture, {"liver": mask, "spine": mask, "lesion": mask})
    right, wrong = benchmark.exchange_names(knowing([case]), [case], 0)
    assert right.mean == wrong.mean == 1.0


def test_one_structure_has_no_other_name(benchmark, scoring, knowing):
    case = scoring.Case("ct_000001", np.zeros((4, 4, 3), np.uint8), {"liver": np.eye(4, dtype=bool)})
    with pytest.raises(DataError):
        benchmark.exchange_names(knowing([case]), [case], 0)


def test_a_whole_run_on_random_weights(benchmark, scoring, segmenter, demo, monkeypatch, capsys):
    arguments = ["model", "--checkpoint", str(demo / "models" / "model.pt"), "--count", "2", "--size", "64"]
    monkeypatch.setattr(sys, "argv", ["phantoms.py", *arguments])
    benchmark.main()
    out = capsys.readouterr().out
    right, wrong = benchmark.exchange_names(segmenter, scoring.make_cases(2, 9000, 64), 9000)
    assert f"│ {right.mean:.3f} │" in out
    assert f"{wrong.mean:.3f} │" in out
    assert "2 phantoms of seeds 9000 to 9001, 64 x 64" in out


def test_a_missing_checkpoint_is_one_line(benchmark, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["phantoms.py", "model", "--checkpoint", "nowhere.pt"])
    with pytest.raises(SystemExit, match=r"phantoms\.py model: \[CHECKPOINT\] .*nowhere\.pt"):
        benchmark.main()
