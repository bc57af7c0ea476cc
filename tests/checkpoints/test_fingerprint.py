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

"""The hash that binds an adapter to its base."""

from __future__ import annotations

import hashlib

import pytest
import torch

from monai_sa2va.checkpoints.fingerprint import fingerprint, fingerprint_of_stored

# 1 + 2**-7 is a bfloat16, 1 + 2**-10 is a float16 and lies between two of them
COARSE, FINE = 1 + 2**-7, 1 + 2**-10


def test_values_count_and_not_how_they_are_stored() -> None:
    wide = {"w": torch.tensor([[COARSE, -2.0]]), "n": torch.tensor(3)}
    half = {"n": torch.tensor(3), "w": torch.tensor([[COARSE, -2.0]], dtype=torch.bfloat16)}
    assert fingerprint(wide) == fingerprint(half)
    assert len(set(fingerprint(wide).values())) == 1
    fine = {"w": torch.tensor([[FINE]], dtype=torch.float16)}
    assert fingerprint(fine) == fingerprint({"w": torch.tensor([[FINE]])})


def test_what_bfloat16_rounds_has_a_hash_of_its_own() -> None:
    fine, rounded = {"w": torch.tensor([FINE])}, {"w": torch.tensor([1.0])}
    assert fingerprint(fine)["float32"] != fingerprint(fine)["bfloat16"] == fingerprint(rounded)["float32"]


def test_the_hash_is_written_out() -> None:
    # of one bfloat16 number 1, whose bytes are 80 3f
    inner = hashlib.sha256(b"torch.bfloat16" + bytes([0x80, 0x3F])).digest()
    assert fingerprint({"w": torch.ones(1)})["float32"] == hashlib.sha256(b"w:(1,)" + inner).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.tensor([1.0, 2.0, 3.0, 4.000001])},
        {"v": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])},
        {"w": torch.tensor([1, 2, 3, 4])},
        {"w": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.zeros(0)},
        {},
    ],
)
def test_value_name_shape_type_and_number_count(other: dict[str, torch.Tensor]) -> None:
    assert fingerprint({"w": torch.tensor([1.0, 2.0, 3.0, 4.0])})["float32"] != fingerprint(other)["float32"]


def test_a_network_in_bfloat16_is_compared_by_the_rounded_hash() -> None:
    fine = {"w": torch.tensor([FINE]), "n": torch.tensor(1)}
    half = {"w": fine["w"].to(torch.bfloat16), "n": fine["n"]}
    assert fingerprint_of_stored(half) == ("bfloat16", fingerprint(fine)["bfloat16"])
    assert fingerprint_of_stored(fine) == ("float32", fingerprint(fine)["float32"])
