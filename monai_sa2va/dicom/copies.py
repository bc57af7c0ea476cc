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
"""Several files of one instance, of which one is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from monai_sa2va.dicom.codecs import missing_codec
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.frames import Candidate
from monai_sa2va.dicom.headers import Header
from monai_sa2va.dicom.instance import InstanceReader
from monai_sa2va.dicom.looks import pixel_fault
from monai_sa2va.dicom.values import text, whole

__all__ = ["without_copies"]


def without_copies(frames: Sequence[Candidate]) -> tuple[list[Candidate], list[Finding]]:
    """Frames of one file an instance, where several files of it have the same pixels, or some can't be read.

    Args:
        frames: of one series.

    Returns:
        The frames that are kept, and what was left out. Files of one instance with different pixels are all kept, as
        are those of which none can be read.
    """
    files: dict[str, list[Header]] = defaultdict(list)
    for header in {id(one.header): one.header for one in frames}.values():
        files[text(header.values, "SOPInstanceUID")].append(header)
    copies: set[int] = set()
    broken: set[int] = set()
    for same in files.values():
        readable = [header for header in same if _can_be_read(header)] if len(same) > 1 else []
        if not readable:
            continue
        broken |= {id(header) for header in same} - {id(header) for header in readable}
        unlike: list[Header] = []
        for header in readable:
            if any(_same_frames(other, header) for other in unlike):
                copies.add(id(header))
            else:
                unlike.append(header)
    findings = []
    if copies:
        findings.append(_handled(f"files left out, as they are copies of others: {len(copies)}"))
    if broken:
        findings.append(
            _handled(f"files left out that can't be read, as others of the same instance can: {len(broken)}")
        )
    return [one for one in frames if id(one.header) not in copies | broken], findings


def _can_be_read(header: Header) -> bool:
    if pixel_fault([header]) or missing_codec(header.transfer_syntax, whole(header.values, "BitsStored") or 8):
        return False
    try:
        with InstanceReader(header.file) as instance:
            return sum(1 for _ in instance.frames()) == header.frames
    except DicomError:
        return False


def _same_frames(first: Header, second: Header) -> bool:
    if first.frames != second.frames:
        return False
    with InstanceReader(first.file) as one, InstanceReader(second.file) as other:
        return all(map(np.array_equal, one.frames(), other.frames()))


def _handled(message: str) -> Finding:
    return Finding(FindingCode.DUPLICATE_POSITION, Severity.HANDLED, message)
