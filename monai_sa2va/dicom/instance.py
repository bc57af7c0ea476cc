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
"""Pixels of one DICOM file, frame by frame: decoded, as modality values, more being brighter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from monai_sa2va.dicom.codecs import decoder_of, missing_codec
from monai_sa2va.dicom.files import file_label, open_file
from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.headers import dataset_of, pixel_element
from monai_sa2va.dicom.modality import grey_values
from monai_sa2va.dicom.series import DicomFile
from monai_sa2va.dicom.values import functional_group, quiet_pydicom, text, whole

__all__ = ["InstanceReader"]

_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = (
    *("SOPClassUID", "SpecificCharacterSet", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue", "Alpha")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)
_NOT_OURS = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)


class InstanceReader:
    """Reads the frames of one file, which stays open meanwhile.

    Args:
        file: where it is.

    Raises:
        DicomError: NOT_DICOM or NO_PIXELS when it can't be read, CODEC_MISSING when nothing here decodes it.
    """

    def __init__(self, file: DicomFile) -> None:
        self.file = file
        self._palette_bits: int | None = None
        self._stream = open_file(file)
        try:
            with quiet_pydicom():
                self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> InstanceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def frame(self, number: int) -> np.ndarray:
        """One frame: (rows, columns) of uint8, int16 or float32, or (rows, columns, 3) of uint8.

        Args:
            number: from 1.

        Raises:
            DicomError: TRUNCATED when its bytes are cut or damaged.
        """
        with quiet_pydicom():
            try:
                stored = self._decoder.as_array(self._at_pixels(), index=number - 1, **self._options)[0]
            except _NOT_OURS:
                raise
            # each decoder has its own errors for damaged bytes, and a panic of Rust's is no Exception
            except BaseException as error:
                raise self._damaged(number, error) from None
            return self._finish(stored, number)

    def frames(self) -> Iterator[np.ndarray]:
        """All frames as stored, each as :meth:`frame`; faster than one by one where they are compressed.

        Raises:
            DicomError: TRUNCATED when bytes are cut or damaged, or frames are missing.
        """
        number = 0
        with quiet_pydicom():
            decoded = self._decoder.iter_array(self._at_pixels(), **self._options)
        while number < self._count:
            with quiet_pydicom():
                try:
                    stored = next(decoded)[0]
                except StopIteration:
                    raise self._damaged(number + 1, None) from None
                except _NOT_OURS:
                    raise
                except BaseException as error:
                    raise self._damaged(number + 1, error) from None
                number += 1
                values = self._finish(stored, number)
            yield values

    def _open(self) -> None:
        self._dataset = dataset_of(self.file, self._stream, _TAGS)
        syntax = str(self._dataset.file_meta.TransferSyntaxUID)
        missing = missing_codec(syntax, whole(self._dataset, "BitsStored") or 8)
        if missing is not None:
            raise DicomError(missing)
        self._decoder: Any = decoder_of(syntax)
        self._source: Any = self._stream
        if syntax == _DEFLATED:
            self._stream.seek(0)
            self._source = dataset_of(self.file, self._stream, None, pixels=True)
            keyword, vr = "PixelData", "OW"
            found = "PixelData" in self._source
        else:
            element = pixel_element(self._stream, self._dataset)
            found, keyword, vr = element.length != 0, element.keyword, element.vr
        if not found:
            message = f"{file_label(self.file)} has no pixels"
            raise DicomError(Finding(FindingCode.NO_PIXELS, Severity.REFUSED, message))
        self._begin = self._stream.tell()
        self._count = max(1, whole(self._dataset, "NumberOfFrames") or 1)
        self._options = self._decoding(keyword, vr)

    def _decoding(self, keyword: str, vr: str) -> dict[str, Any]:
        from pydicom.pixels.utils import as_pixel_options

        ds = self._dataset
        try:
            options = as_pixel_options(ds, pixel_keyword=keyword, pixel_vr=vr)
        # of garbage, which the decoder refuses in its turn
        except Exception:
            options = {}
        options = {name: value for name, value in options.items() if value is not None}
        options["number_of_frames"] = self._count
        options.setdefault("bits_stored", options.get("bits_allocated"))
        options.setdefault("pixel_representation", 0)
        options.setdefault("samples_per_pixel", 1)
        options.setdefault("photometric_interpretation", "MONOCHROME2")
        if options["samples_per_pixel"] != 1:
            options.setdefault("planar_configuration", 0)
        stored, high = whole(ds, "BitsStored") or 0, whole(ds, "HighBit") or 0
        self._shift = 0
        if 0 < stored <= high < (whole(ds, "BitsAllocated") or 0) and self._decoder.is_native:
            # values that don't begin at the lowest bit: decoded with what lies below, which is cut off afterwards
            options["bits_stored"], self._shift = high + 1, high + 1 - stored
        return {**options, "raw": False}

    def _at_pixels(self) -> Any:
        if self._source is self._stream:
            self._stream.seek(self._begin)
        return self._source

    def _finish(self, stored: np.ndarray, number: int) -> np.ndarray:
        ds = self._dataset
        if self._shift:
            stored = stored >> self._shift
        if text(ds, "PhotometricInterpretation") == "PALETTE COLOR":
            return self._from_palette(stored)
        if stored.ndim == 3:
            return _eight_bits(stored, int(self._options["bits_stored"]))
        return grey_values(stored, ds, functional_group(ds, "PixelValueTransformationSequence", number))

    def _from_palette(self, stored: np.ndarray) -> np.ndarray:
        from pydicom.pixels import apply_color_lut

        ds = self._dataset
        try:
            if self._palette_bits is None:
                count, first, _ = ds.RedPaletteColorLookupTableDescriptor
                # some write 8 bits into tables of 16; all of the table tells, where one dark frame would not
                shown = apply_color_lut(int(first) + np.arange(count or 1 << 16), ds)[..., :3]
                self._palette_bits = 16 if shown.max(initial=0) > 255 else 8
            coloured = apply_color_lut(stored, ds)[..., :3]
        except Exception as error:
            raise self._damaged(1, error, "its palette") from None
        return _eight_bits(coloured, self._palette_bits)

    def _damaged(self, number: int, error: BaseException | None, what: str = "") -> DicomError:
        where = what or (f"frame {number}" if self._count > 1 else "its pixels")
        kind = "" if error is None else f" ({type(error).__name__})"
        told = f"{where} can't be decoded{kind}; the file or its header is damaged, fetch it again"
        message = f"{file_label(self.file)}: {told}"
        return DicomError(Finding(FindingCode.TRUNCATED, Severity.REFUSED, message))


def _eight_bits(colour: np.ndarray, bits: int) -> np.ndarray:
    """Colours as screens show them."""
    result: np.ndarray = (colour >> max(0, bits - 8)).astype(np.uint8)
    return result
