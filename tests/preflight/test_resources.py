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

import torch
from torch import nn

from monai_sa2va.preflight.resources import activation_bytes, free_memory, training_bytes


def test_activations_by_hand(micro_config):
    # 3 tiles of 4 patches and a class token, 32 wide, 1 layer; 3 tokens and 256 of text, 32 wide, 2 layers;
    # SAM2: 16 x 16 x 16, 8 x 8 x 32, 2 blocks of 4 x 4 x 64, 2 x 2 x 128
    values = 3 * 5 * 32 * 1 + (3 + 256) * 32 * 2 + 4096 + 2048 + 2 * 1024 + 512
    # 2 objects, 16 x 16 pixels, 32 / 8 channels, 16 maps of 2 bytes
    maps = 2 * 256 * 4 * 16 * 2
    assert activation_bytes(micro_config, objects=2, amp=True) == 34 * values + maps
    assert activation_bytes(micro_config, objects=2, amp=False) == 2 * (34 * values + maps)


def test_frozen_weights_need_no_gradient_and_no_moments(micro_config):
    network = nn.Linear(9, 10)  # 100 parameters
    network.config = micro_config
    batch = 3 * activation_bytes(micro_config, 1, False)
    assert training_bytes(network, 3, 1, False) == 1600 + batch
    network.weight.requires_grad_(False)
    assert training_bytes(network, 3, 1, False) == 90 * 4 + 10 * 16 + batch


def test_free_memory_is_told():
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 2**20
