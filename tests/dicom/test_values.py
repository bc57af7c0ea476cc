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

"""Values that are missing or garbage are no values, and pydicom's warnings, which quote them, are not heard."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from pydicom import Dataset, config

from monai_sa2va.dicom.values import items, number, numbers, quiet_pydicom, shown_name, text, texts, uid_of, whole
from monai_sa2va.writers.results import folder_name


def state() -> tuple:
    return logging.getLogger("pydicom").level, list(warnings.filters), config.settings.reading_validation_mode


def test_what_is_there() -> None:
    ds = Dataset()
    ds.Modality, ds.ImageType, ds.Rows, ds.RescaleSlope = " CT ", ["A", "B"], 5, "0.5"
    ds.PixelSpacing, ds.SOPInstanceUID = [0.5, 0.75], "1.2.3"
    assert (text(ds, "Modality"), texts(ds, "ImageType")) == ("CT", ("A", "B"))
    assert (whole(ds, "Rows"), number(ds, "RescaleSlope"), whole(ds, "RescaleSlope")) == (5, 0.5, None)
    assert numbers(ds, "PixelSpacing", 2) == (0.5, 0.75)
    assert uid_of(ds, "SOPInstanceUID") == "1.2.3"


def test_what_is_not() -> None:
    assert (text({}, "Modality"), texts(None, "Modality"), items({}, "X"), numbers({}, "X")) == ("", (), [], None)
    ds = {"A": ("nan",), "B": ("1", "2"), "C": ("x",), "D": ("../../x",), "E": ("1" * 65,), "F": 7}
    assert [numbers(ds, key, 1) for key in "ABC"] == [None, None, None]
    assert [uid_of(ds, key) for key in "DE"] == [None, None]
    assert items(ds, "F") == []


def test_threads_leave_everything_as_it_was() -> None:
    before, inside, leave = state(), threading.Event(), threading.Event()

    def other() -> None:
        with quiet_pydicom():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with quiet_pydicom():
        thread.start()
        inside.wait(10)
    # the other one still reads
    assert logging.getLogger("pydicom").level > logging.CRITICAL
    leave.set()
    thread.join()
    assert state() == before


def test_an_error_leaves_everything_as_it_was() -> None:
    before = state()
    with pytest.raises(KeyError), quiet_pydicom():
        raise KeyError
    assert state() == before


def test_names_are_shown_in_one_line() -> None:
    assert shown_name("b\u00e4r\n\udcff\x1b.png") == "b\u00e4r???.png"
    assert folder_name("a\udcff\n.png") == "a__"
