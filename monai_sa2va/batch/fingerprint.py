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

"""What was asked of which image by which weights, as one hash: by it a later run knows what is done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_sa2va.dicom.series import DicomSeries

__all__ = ["fingerprint_of", "source_hash"]

_CHUNK = 1 << 20


def source_hash(source: Path | DicomSeries) -> str:
    """SHA-256 of a file's content, or of the instances and frames that a series consists of.

    Raises:
        OSError: when the file can't be read.
    """
    digest = hashlib.sha256()
    if isinstance(source, Path):
        with source.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    else:
        for frame in source.frames:
            digest.update(f"{frame.sop_instance_uid}#{frame.number}\n".encode())
    return digest.hexdigest()


def fingerprint_of(**asked: Any) -> str:
    """SHA-256 of whatever decides a result, in 64 hexadecimal digits.

    Args:
        **asked: by name; what JSON doesn't know counts by its attributes.
    """
    text = json.dumps(asked, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return {"type": type(value).__name__, **vars(value)} if hasattr(value, "__dict__") else str(value)
