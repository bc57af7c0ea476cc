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

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Named one by one, so that what a training run left under bundle/ stays at home.
BUNDLE_FILES = ("LICENSE", "configs/*", "configs/recipes/*", "docs/*", "models/model.pt")


class BuildWithBundle(build_py):
    """Copies the bundle to ``monai_sa2va/_bundle``; an editable install finds it in the checkout instead."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        source = Path("bundle")
        for path in (found for pattern in BUNDLE_FILES for found in source.glob(pattern) if found.is_file()):
            target = Path(self.build_lib, "monai_sa2va", "_bundle", path.relative_to(source))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(
    packages=find_packages(include=["monai_sa2va", "monai_sa2va.*"]),
    package_dir={"": "."},  # named, so that an editable install is a plain path, which type checkers follow too
    package_data={"monai_sa2va": ["py.typed"]},
    cmdclass={"build_py": BuildWithBundle},
)
