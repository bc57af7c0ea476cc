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


"""Colours of objects: the same in the overview picture, the DICOM SEG, the RTSTRUCT and the NRRD."""

from __future__ import annotations

__all__ = ["PALETTE"]

PALETTE = (
    (255, 99, 71),
    (64, 196, 255),
    (118, 230, 90),
    (255, 214, 64),
    (216, 120, 255),
    (255, 150, 200),
    (0, 210, 170),
    (255, 160, 60),
)
"""Red, green and blue, 0 to 255, of the objects in turns."""
