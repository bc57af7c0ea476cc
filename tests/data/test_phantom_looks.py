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

import numpy as np
import pytest

from monai_sa2va.data.phantom_looks import LOOKS
from monai_sa2va.data.phantom_scene import STRUCTURES, Scene


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_look_paints_only_its_structures_in_their_order(look):
    for seed in range(10):
        scene = Scene(np.random.default_rng(seed), np.random.default_rng(seed), 64)
        inside = LOOKS[look](scene)
        assert inside.shape == (64, 64)
        assert list(scene.masks) == [name for name in STRUCTURES[look] if name in scene.masks]
        assert "vessels" in scene.masks
        assert np.isfinite(scene.image).all()
