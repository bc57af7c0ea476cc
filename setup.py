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

"""Carries ``bundle/`` into the wheel; everything else is in pyproject.toml."""

from __future__ import annotations

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["monai_sa2va", "monai_sa2va.*"]), "monai_sa2va._bundle"],
    package_dir={"monai_sa2va._bundle": "bundle"},
    package_data={
        "monai_sa2va": ["py.typed"],
        # named one by one, so that what a training run left under bundle/ stays at home
        "monai_sa2va._bundle": ["LICENSE", "configs/*", "docs/*", "models/model.pt"],
    },
)
