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

"""Pixels become modality values, exactly, and in the smallest type that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import made
import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from monai_sa2va.dicom.findings import DicomError, FindingCode
from monai_sa2va.dicom.pixels import FrameReader, read_array, read_frame
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import DicomSeries

ROW = np.array([[0, 1, 2000, 4095]])


def only_series(folder: Path, *datasets: Dataset) -> DicomSeries:
    (series,) = scan(made.write(folder, datasets)).series
    return series


def values(folder: Path, pixels: Any, **more: Any) -> np.ndarray:
    """(columns,) of a picture of one row."""
    array = read_array(only_series(folder, made.image(np.asarray(pixels), made.DX, "DX", **more)))
    return array[0, :, 0, 0]


@pytest.mark.parametrize(
    ("more", "expected", "dtype"),
    [
        ({}, [0, 1, 2000, 4095], "int16"),
        ({"RescaleSlope": 2, "RescaleIntercept": -1000}, [-1000, -998, 3000, 7190], "int16"),
        ({"RescaleSlope": "0.5", "RescaleIntercept": 0}, [0, 0.5, 1000, 2047.5], "float32"),
        ({"RescaleSlope": 10, "RescaleIntercept": 0}, [0, 10, 20000, 40950], "float32"),
        # inverted within 12 bits, then rescaled
        ({"photometric": "MONOCHROME1"}, [4095, 4094, 2095, 0], "int16"),
        ({"photometric": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -10}, [8180, 8178, 4180, -10], "int16"),
        # padding takes the smallest value of the others
        ({"PixelPaddingValue": 4095}, [0, 1, 2000, 0], "int16"),
        ({"PixelPaddingValue": 0, "RescaleSlope": 1, "RescaleIntercept": -1024}, [-1023, -1023, 976, 3071], "int16"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 1}, [2000, 2000, 2000, 4095], "int16"),
        ({"photometric": "MONOCHROME1", "PixelPaddingValue": 0}, [0, 4094, 2095, 0], "int16"),
    ],
)
def test_stored_to_modality_values(tmp_path: Path, more: dict, expected: list, dtype: str) -> None:
    found = values(tmp_path / "in", ROW, bits_stored=12, **more)
    assert found.tolist() == expected
    assert found.dtype == dtype


def test_eight_bits_stay(tmp_path: Path) -> None:
    found = values(tmp_path / "in", np.array([[0, 7, 255]], np.uint8))
    assert (found.tolist(), str(found.dtype)) == ([0, 7, 255], "uint8")


def test_bits_above_the_stored_ones_are_no_value(tmp_path: Path) -> None:
    # an old overlay in the upper four bits
    assert values(tmp_path / "a", ROW | 0xF000, bits_stored=12).tolist() == ROW[0].tolist()
    # of signed ones the twelfth bit is the sign: 0x0FFF is -1, and junk above it changes nothing
    found = values(tmp_path / "b", np.array([[0x7FF, 0x800 - 0x1000, 0xFFF - 0x1000]]), bits_stored=12, signed=True)
    assert found.tolist() == [2047, -2048, -1]
    found = values(tmp_path / "c", np.array([[0x7FF, 0x800, 0xFFF, 0x1FFF]]), bits_stored=12, signed=True)
    assert found.tolist() == [2047, -2048, -1, -1]


def test_values_that_begin_above_the_lowest_bit(tmp_path: Path) -> None:
    assert values(tmp_path / "in", ROW << 4 | 0xA, bits_stored=12, HighBit=15).tolist() == ROW[0].tolist()


def test_each_slice_has_its_own_rescale_and_sign(tmp_path: Path) -> None:
    stored = np.array([[[10, 20]], [[10, 20]], [[-10, 20]]])

    def each(z: int) -> dict[str, Any]:
        return {"RescaleSlope": z + 1, "RescaleIntercept": -z, "signed": z == 2}

    array = read_array(only_series(tmp_path / "in", *made.series(3, pixels=stored, each=each, bits_stored=16)))
    assert array[0, :, 0].T.tolist() == [[10, 20], [19, 39], [-32, 58]]
    assert array.dtype == np.int16


def test_rescale_of_functional_groups(tmp_path: Path) -> None:
    def each(z: int, frame: Dataset) -> None:
        frame.PixelValueTransformationSequence[0].RescaleSlope = z + 1

    stored = np.array([[[10, 20]], [[10, 20]]])
    ds = made.enhanced(2, pixels=stored, modality="MR", shared=False, each=each)
    assert read_array(only_series(tmp_path / "in", ds))[0, :, 0].T.tolist() == [[10, 20], [20, 40]]


def test_one_wide_slice_widens_all(tmp_path: Path) -> None:
    stored = made.voxels(3, 2, 4, high=4000)
    images = made.series(3, pixels=stored, each=lambda z: {"RescaleSlope": 20 if z == 1 else 1}, RescaleIntercept=0)
    array = read_array(only_series(tmp_path / "in", *images))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0].transpose(2, 1, 0), stored * np.array([1, 20, 1])[:, None, None])


def test_a_modality_table(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4, 0, 16], [7, 100, 3, 900], "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    assert values(tmp_path / "in", [[0, 1, 2, 3]], ModalityLUTSequence=[item]).tolist() == [7, 100, 3, 900]


def test_colours(tmp_path: Path) -> None:
    stored = np.array([[[255, 0, 0], [0, 255, 0], [10, 20, 30]]], np.uint8)
    array = read_array(only_series(tmp_path / "rgb", made.image(stored, made.US, "US")))
    assert (array.shape, str(array.dtype)) == ((3, 3, 1, 1), "uint8")
    assert array[:, :, 0, 0].T.tolist() == stored[0].tolist()
    # pure red in YBR_FULL is (76, 85, 255)
    ybr = made.image(np.array([[[76, 85, 255]]], np.uint8), made.US, "US", photometric="YBR_FULL")
    np.testing.assert_allclose(read_array(only_series(tmp_path / "ybr", ybr))[:, 0, 0, 0], [255, 0, 0], atol=1)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    from irregularities import ROWS

    (row,) = [row for row in ROWS if row.irregularity == "A palette"]
    array = read_array(scan(row.write(tmp_path / "in")).series[0])
    # pixel 9 is in the second row and column; its colours are 1, 2 and 3 times its value
    assert array[:, 1, 1, 0].tolist() == [9, 18, 27]


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda uid: uid.keyword,
)
@pytest.mark.parametrize("many", [False, True], ids=["single", "enhanced"])
def test_transfer_syntaxes(tmp_path: Path, syntax: Any, many: bool) -> None:
    stored = made.voxels(3, 32, 40, high=4096)
    images = [made.enhanced(3, pixels=stored)] if many else made.series(3, pixels=stored)
    for ds in images:
        if syntax.is_encapsulated:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            ds.file_meta.TransferSyntaxUID = syntax
            if syntax == ExplicitVRBigEndian:
                ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    series = only_series(tmp_path / "in", *images)
    np.testing.assert_array_equal(read_array(series)[0].transpose(2, 1, 0), stored - 1024)
    np.testing.assert_array_equal(read_frame(series, 1)[0].T, stored[1] - 1024)


def test_frames_one_at_a_time(tmp_path: Path) -> None:
    stored = made.voxels(4, 6, 8)
    series = only_series(tmp_path / "in", made.enhanced(4, pixels=stored))
    with FrameReader(series) as frames:
        assert len(frames) == 4
        for z in (2, 0, 3):
            np.testing.assert_array_equal(frames[z][0].T, stored[z] - 1024)


def test_pixels_that_are_cut_are_refused(tmp_path: Path) -> None:
    images = made.series(3, 32, 32)
    for ds in images:
        ds.compress(RLELossless, generate_instance_uid=False)
    images[1].PixelData = images[1].PixelData[:200]
    series = only_series(tmp_path / "in", *images)
    with pytest.raises(DicomError, match=r"can't be decoded.*fetch it again") as caught:
        read_array(series)
    assert caught.value.finding.code is FindingCode.TRUNCATED
    assert read_frame(series, 0).shape == (1, 32, 32)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    series = only_series(tmp_path / "in", *made.series(2))
    (tmp_path / "in" / "0001.dcm").unlink()
    with pytest.raises(DicomError, match=r"0001\.dcm can't be read: No such file"):
        read_array(series)


def test_no_more_than_the_array_is_held(tmp_path: Path) -> None:
    import tracemalloc

    series = only_series(tmp_path / "in", *made.series(64, 128, 128))
    read_frame(series, 0)
    tracemalloc.start()
    array = read_array(series)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # two megabytes of int16, beside what one frame takes on its way
    assert array.nbytes == 64 * 128**2 * 2
    assert peak < 1.2 * array.nbytes


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_floats_of_a_file_that_states_no_bits(tmp_path: Path, keyword: str, dtype: str) -> None:
    (ds,) = made.series(1, RescaleSlope=2, RescaleIntercept=1)
    values = np.random.default_rng(0).normal(0, 1000, (6, 8)).astype(dtype)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, name)
    setattr(ds, keyword, values.tobytes())
    ds.BitsAllocated = 8 * values.itemsize
    (series,) = scan(made.write(tmp_path, [ds])).series
    assert np.allclose(read_array(series)[0, :, :, 0].T, 2 * values + 1, atol=1e-3)


def test_a_dark_frame_of_a_palette_of_16_bits_stays_dark(tmp_path: Path) -> None:
    pixels = np.zeros((2, 6, 8), np.uint8)
    pixels[1] = 100
    ds = made.image(pixels, made.US, "US", photometric="PALETTE COLOR", NumberOfFrames=2)
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [101, 0, 16])
        table = np.full(101, 200, "<u2")
        table[100] = 0x8000
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    (series,) = scan(made.write(tmp_path, [ds])).series
    assert read_array(series)[0, 0, 0].tolist() == [0, 128]


def test_a_file_that_begins_with_its_meta_information(tmp_path: Path) -> None:
    (path,) = made.write(tmp_path, made.series(1)).iterdir()
    raw = path.read_bytes()
    # neither the 128 bytes nor the length of the group
    path.write_bytes(raw[132 + 12 :])
    (series,) = scan(tmp_path).series
    assert series.shape == (8, 6, 1)
