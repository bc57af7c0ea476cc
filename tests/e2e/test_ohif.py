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

"""The tutorial in OHIF: a sentence is typed, the mask is seen, a click corrects it, and Orthanc has it as a SEG."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from services import remove

from monai_sa2va.verify.run import verify_results

Dice = Callable[[np.ndarray, np.ndarray], float]
Truth = Callable[[str], np.ndarray]

LIVER = 1
"""Its value in the server's label maps: the first of ``--labels``."""
SENTENCE = "Segment the liver."
CLICK = [37, 39, 8]
"""The voxel that the tutorial's program has."""


@pytest.fixture(scope="module")
def sentence(ohif: Any, pictures: Path) -> dict[str, Any]:
    """What was sent, got and seen when the sentence was typed and Run was pressed."""
    listed = ohif.list_studies()
    ohif.unfold_study()
    ohif.picture(pictures / "ohif-studies.png")
    ohif.open_study()
    ohif.connect()
    ohif.open_options()
    ohif.type_option("sa2va_click", "text", SENTENCE)
    ohif.type_option("sa2va_text", "text", SENTENCE)
    ohif.picture(pictures / "ohif-options.png")
    ohif.confirm()
    ohif.scroll_to(CLICK[2])
    grey = ohif.coloured(CLICK[2])
    sent, got = ohif.run("Segmentation")
    seen = ohif.coloured(CLICK[2])
    ohif.picture(pictures / "ohif-sentence.png")
    return {"listed": listed, "grey": grey, "sent": sent, "got": got, "seen": seen, "map": ohif.label_map()}


@pytest.fixture(scope="module")
def click(ohif: Any, sentence: dict[str, Any], pictures: Path) -> dict[str, Any]:
    """The same for a click."""
    ohif.open_tab("Point Prompts")
    ohif.choose("liver")
    ohif.click_on(*CLICK)
    sent, got = ohif.run("PointPrompts")
    seen = ohif.coloured(CLICK[2])
    ohif.picture(pictures / "ohif-click.png")
    return {"sent": sent, "got": got, "seen": seen, "map": ohif.label_map()}


def _params(body: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.search(r"\{.*\}", body)[0])  # type: ignore[index]
    return found


def _values(answer: bytes) -> np.ndarray:
    """A label map as it was fetched, (Z, Y, X): NRRD, which OHIF takes raw."""
    header, values = answer.split(b"\n\n", 1)
    sizes = re.search(rb"sizes: (\d+) (\d+) (\d+)", header)
    assert sizes is not None
    return np.frombuffer(values, np.uint8).reshape([int(number) for number in sizes.groups()][::-1])


def test_the_study_is_listed(sentence: dict[str, Any]) -> None:
    assert "ct_volume_000008" in sentence["listed"]


def test_what_was_typed_is_what_was_sent(sentence: dict[str, Any]) -> None:
    assert _params(sentence["sent"]) == {
        "text": SENTENCE,
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }


def test_the_mask_that_was_fetched_is_the_liver(sentence: dict[str, Any], truth: Truth, dice: Dice) -> None:
    overlap = dice(_values(sentence["got"]) == LIVER, truth("liver"))
    print(f"Dice of the sentence: {overlap:.3f}")
    assert overlap >= 0.7


def test_the_viewer_has_the_mask_in_its_place(ohif: Any, sentence: dict[str, Any]) -> None:
    np.testing.assert_array_equal(sentence["map"] == ohif.segment_value("liver"), _values(sentence["got"]) == LIVER)
    # of the phantom: 2.77 mm a pixel, 4.26 mm a slice, the middle of the first slice at the origin
    expected = np.diag([2.77, 2.77, 4.26, 1.0])
    expected[:2, 3] = -2.77 * 127 / 2
    np.testing.assert_allclose(ohif.affine(), expected, atol=1e-3)


def test_the_mask_is_seen_on_the_canvas(sentence: dict[str, Any], truth: Truth, dice: Dice) -> None:
    z = CLICK[2]
    seen = sentence["seen"] & ~sentence["grey"]
    shown, there = dice(seen, _values(sentence["got"])[z] == LIVER), dice(seen, truth("liver")[z])
    print(f"Dice of the colour on the canvas: with the mask {shown:.3f}, with the truth {there:.3f}")
    assert shown > 0.9
    assert there >= 0.7


def test_a_click_corrects_it(
    ohif: Any, sentence: dict[str, Any], click: dict[str, Any], truth: Truth, dice: Dice
) -> None:
    sent = _params(click["sent"])
    assert (sent["text"], sent["foreground"], sent["background"]) == (SENTENCE, [CLICK], [])
    value = ohif.segment_value("liver")
    before, after = (dice(found["map"] == value, truth("liver")) for found in (sentence, click))
    print(f"Dice before the click {before:.3f}, after it {after:.3f}")
    assert after > before
    x, y, z = CLICK
    assert truth("liver")[z, y, x]
    assert sentence["map"][z, y, x] == 0
    assert click["map"][z, y, x] == value
    seen = [dice(found["seen"] & ~sentence["grey"], truth("liver")[z]) for found in (sentence, click)]
    print(f"Dice of the colour in the slice that was clicked: before {seen[0]:.3f}, after {seen[1]:.3f}")
    assert seen[1] > seen[0]


def test_what_the_viewer_shows_is_saved_as_a_seg(
    ohif: Any, click: dict[str, Any], orthanc: str, tutorial: Any, tmp_path: Path
) -> None:
    from dicomweb_client import DICOMwebClient

    store = DICOMwebClient(orthanc)
    (series,) = store.search_for_series(search_filters={"Modality": "CT"})
    value = ohif.segment_value("liver")
    status, told = ohif.submit(series["0020000E"]["Value"][0], "liver", value)
    assert status == 200, told
    (found,) = store.search_for_series(search_filters={"Modality": "SEG"})
    study, uid = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
    try:
        (seg,) = store.retrieve_series(study, uid)
        (segment,) = seg.SegmentSequence
        assert (segment.SegmentLabel, seg.Manufacturer) == ("liver", "monai-sa2va")
        ones = int(np.unpackbits(np.frombuffer(seg.PixelData, np.uint8)).sum())
        assert ones == int((click["map"] == value).sum())
        seg.save_as(tmp_path / "seg.dcm")
    finally:
        # the tutorial's own label is the only one then
        remove(tutorial.orthanc, uid)
    (verdict,) = verify_results(tmp_path, [tutorial.folder / "study" / "images"])
    assert verdict.problems == []
    assert verdict.against_source
    print(f"largest corner error {verdict.corner_mm:.2g} mm")


def test_the_rest_of_the_tutorial(click: dict[str, Any], tutorial: Any, truth: Truth, dice: Dice) -> None:
    tutorial.run("python", "save_label")
    tutorial.run("python", "retrieve_series")
    assert "1 of 1 results verified, 1 against their sources" in tutorial.run("bash", "verify saved")
    import highdicom

    seg = highdicom.seg.segread(tutorial.folder / "saved" / "seg.dcm")
    volume = seg.get_volume(combine_segments=True, allow_missing_positions=True).array
    # the program asked as OHIF did
    assert int((volume > 0).sum()) == int((_values(click["got"]) > 0).sum())


def test_the_pictures_are_small(click: dict[str, Any], pictures: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in pictures.glob("ohif-*.png")}
    assert sorted(sizes) == ["ohif-click.png", "ohif-options.png", "ohif-sentence.png", "ohif-studies.png"]
    assert max(sizes.values()) < 150_000
