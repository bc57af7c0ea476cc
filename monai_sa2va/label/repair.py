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

"""What MONAI Label 0.8.5 needs to start beside pydicom 3."""

from __future__ import annotations

import importlib.util
import sys
import types

__all__ = ["check_monailabel", "repair_pydicom"]

_MISSING = "pydicom._storage_sopclass_uids"


def repair_pydicom() -> bool:
    """Give ``pydicom_seg`` 0.4, which MONAI Label 0.8.5 imports, the one name of pydicom 2 that pydicom 3 dropped.

    To be called before anything of MONAI Label's server is imported. Where ``pydicom_seg`` isn't installed, or pydicom
    still has the module, nothing is changed.

    Returns:
        Whether something was changed.
    """
    if _MISSING in sys.modules or importlib.util.find_spec("pydicom_seg") is None:
        return False
    if importlib.util.find_spec(_MISSING) is not None:
        return False
    from pydicom.uid import SegmentationStorage

    module = types.ModuleType(_MISSING)
    module.SegmentationStorage = SegmentationStorage  # type: ignore[attr-defined]
    sys.modules[_MISSING] = module
    return True


def check_monailabel() -> None:
    """Refuse to go on without MONAI Label.

    Raises:
        ConfigError: when it isn't installed.
    """
    from monai_sa2va.errors import ConfigError

    if importlib.util.find_spec("monailabel") is None:
        raise ConfigError("MONAI Label is not installed; run: pip install 'monai-sa2va[label]'")
