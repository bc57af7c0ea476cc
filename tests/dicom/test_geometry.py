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

"""Every series lies where its files say, whatever the order, the plane, the spacing and the tilt."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")

import highdicom
import made
import numpy as np
import pydicom
from hypothesis import given
from hypothesis import strategies as st

from monai_sa2va.dicom.findings import FindingCode
from monai_sa2va.dicom.pixels import read_array, read_pixels
from monai_sa2va.dicom.scan import scan
from monai_sa2va.dicom.series import Layout

ORIENTATIONS = {
    "axial": made.AXIAL,
    "coronal": made.CORONAL,
    "sagittal": made.SAGITTAL,
    "oblique": made.oblique(17, -31, 8),
}


@st.composite
def volumes(draw: st.DrawFn) -> dict:
    """A series of any plane, order, spacing and tilt."""
    slices = draw(st.integers(2, 6))
    orientation = ORIENTATIONS[draw(st.sampled_from(sorted(ORIENTATIONS)))]
    millimetres = st.floats(0.2, 4.0).map(lambda value: round(value, 3))
    shear = draw(st.sampled_from([(0.0, 0.0), (0.0, 0.25), (0.1, -0.3)]))
    origin = [round(draw(st.floats(-300, 300)), 3) for _ in range(3)]
    return {
        "slices": slices,
        "rows": draw(st.integers(2, 5)),
        "columns": draw(st.integers(2, 5)),
        "orientation": orientation,
        "spacing": (draw(millimetres), draw(millimetres)),
        "places": made.positions(slices, orientation, origin, draw(st.sampled_from([0.6, 1.0, 5.0])), shear),
        "modality": draw(st.sampled_from(["CT", "MR"])),
        "seed": draw(st.integers(0, 99)),
        "order": draw(st.permutations(range(slices))),
        "enhanced": draw(st.booleans()),
    }


@given(volumes())
def test_every_voxel_lies_where_its_own_file_puts_it(case: dict) -> None:
    order, seed, many = case.pop("order"), case.pop("seed"), case.pop("enhanced")
    stored = made.voxels(case["slices"], case["rows"], case["columns"], seed)
    if many:
        shuffled = {**case, "places": case["places"][order]}
        datasets = [made.enhanced(pixels=stored[order], shared=bool(seed % 2), **shuffled)]
    else:
        datasets = made.series(pixels=stored, each=lambda z: {"InstanceNumber": order[z]}, **case)
    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder), datasets, None if many else order)
        (series,) = scan(folder).series
        array = read_array(series)
    assert series.layout is Layout.VOLUME
    assert series.shape == (case["columns"], case["rows"], case["slices"])
    shift = -1024 if case["modality"] == "CT" else 0
    row, column = np.array(case["orientation"][:3]), np.array(case["orientation"][3:])
    for z, place in enumerate(case["places"]):
        # the made series goes along the normal already
        np.testing.assert_array_equal(array[0, :, :, z].T, stored[z] + shift)
        for x, y in itertools.product((0, case["columns"] - 1), (0, case["rows"] - 1)):
            expected = place + x * case["spacing"][1] * row + y * case["spacing"][0] * column
            np.testing.assert_allclose((series.affine @ (x, y, z, 1))[:3], expected, atol=1e-4)
        np.testing.assert_allclose(series.frames[z].position, place, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_agrees_with_highdicom(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    folder = made.write(tmp_path / "in", made.series(6, orientation=orientation), [3, 0, 5, 1, 4, 2])
    (series,) = scan(folder).series
    volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    array, affine = volume.array, volume.affine
    # highdicom counts (frame, row, column)
    ours = read_array(series)[0].transpose(2, 1, 0)
    for z, y, x in ((0, 0, 0), (5, 5, 7), (2, 3, 1)):
        place = affine @ (z, y, x, 1)
        index = np.rint(np.linalg.solve(series.affine, place)).astype(int)
        np.testing.assert_allclose(series.affine @ index, place, atol=1e-6)
        assert ours[index[2], index[1], index[0]] == array[z, y, x]


def test_ras_affine_of_the_pixels(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "in", made.series(places=made.positions(5, origin=(-20, -30, 40), step=2.5)))
    (series,) = scan(folder).series
    # columns are 0.5 mm apart, rows 0.75 mm; left and back are the negative directions of RAS
    expected = [[-0.5, 0, 0, 20], [0, -0.75, 0, 30], [0, 0, 2.5, 40], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_pixels(series).affine.numpy(), expected)


def test_a_tilted_series_keeps_its_shear(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "in", made.series(4, places=made.positions(4, step=2.0, shear=(0.0, 0.5))))
    (series,) = scan(folder).series
    np.testing.assert_allclose(series.affine[:3, 2], [0, 1.0, 2.0], atol=1e-9)
    (tilt,) = series.findings
    assert tilt.code is FindingCode.GANTRY_TILT
    assert "26.6 degrees" in tilt.message


@pytest.mark.parametrize(("off", "layout"), [(0.009, Layout.VOLUME), (0.02, Layout.STACK)])
def test_even_is_within_a_hundredth_of_the_step(tmp_path: Path, off: float, layout: Layout) -> None:
    heights = [0.0, 1.0, 2.0 + off, 3.0, 4.0]
    folder = made.write(tmp_path / "in", made.series(places=made.positions(5, heights=heights)))
    (series,) = scan(folder).series
    assert series.layout is layout
    assert (series.affine is None) == (layout is Layout.STACK)


def test_a_stack_is_in_order_and_says_what_is_missing(tmp_path: Path) -> None:
    places = made.positions(5, heights=[0, 2, 4, 10, 12])
    folder = made.write(tmp_path / "in", made.series(places=places), [4, 2, 0, 1, 3])
    (series,) = scan(folder).series
    np.testing.assert_allclose([frame.position for frame in series.frames], places)
    (missing,) = series.findings
    assert missing.message.startswith("slices missing: 2 of 7, which lie 2 mm apart")


def test_a_volume_in_two_directions_is_two_volumes(tmp_path: Path) -> None:
    coronal = made.series(4, orientation=made.CORONAL)
    for ds in coronal:
        ds.SOPInstanceUID = made.uid("coronal", ds.InstanceNumber)
        made.with_meta(ds)
    first, second = scan(made.write(tmp_path / "in", [*coronal, *made.series(5)])).series
    assert (first.part, first.shape[2], second.part, second.shape[2]) == (1, 5, 2, 4)
    assert (first.layout, second.layout) == (Layout.VOLUME, Layout.VOLUME)
