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
"""Which transfer syntaxes can be decoded here."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from monai_sa2va.dicom.findings import Finding, FindingCode, Severity

__all__ = ["decoder_of", "missing_codec"]

_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_RETIRED_JPEG = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (52, 53, 54, 55, 56, 59, 60, 61, 62, 63, 64))


def decoder_of(transfer_syntax: str) -> Any:
    """Pydicom's decoder of a transfer syntax.

    Retired processes of JPEG (spectral selection, progression) go to the decoder of the extended one: their bytes say
    themselves which they are, and GDCM's library reads them.

    Raises:
        NotImplementedError: when pydicom knows none.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    return get_decoder(UID(_JPEG_EXTENDED if transfer_syntax in _RETIRED_JPEG else transfer_syntax))


@lru_cache(maxsize=64)
def missing_codec(transfer_syntax: str, bits: int = 8) -> Finding | None:
    """Why pixels can't be decoded; ``None`` where they can.

    Args:
        transfer_syntax: its UID.
        bits: BitsStored.
    """
    from pydicom.uid import UID

    name = UID(transfer_syntax).name
    try:
        decoder = decoder_of(transfer_syntax)
        deep = bits > 8 and transfer_syntax in (_JPEG_EXTENDED, *_RETIRED_JPEG)
        if deep and "pylibjpeg" not in decoder.available_plugins:
            # neither GDCM's nor Pillow's JPEG library is built for 12 bits
            advice = "lossy JPEG of 12 bits; install pylibjpeg-libjpeg, which is GPL"
            return Finding(FindingCode.CODEC_MISSING, Severity.REFUSED, f"pixels are stored as {name}, {advice}")
        if decoder.is_available:
            return None
        told = "; ".join(decoder.missing_dependencies)
        advice = f"install one of: {told}" if told else "install monai-sa2va[dicom]"
    except NotImplementedError:
        advice = "no decoder for it is known; convert the files, e.g. by gdcmconv or dcmdjpeg"
    return Finding(FindingCode.CODEC_MISSING, Severity.REFUSED, f"pixels are stored as {name}; {advice}")
