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
from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from monai_sa2va.data.datalist import load_datalist, parse_prompts, resolve_datalist
from monai_sa2va.errors import DatalistError, OutputError


def write(folder: Path, content: object, name: str = "datalist.json") -> Path:
    for file in ("a.png", "b.png", "la.png", "lb.png"):
        (folder / file).write_bytes(b"")
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / name


ENTRY = {"image": "a.png", "label": "la.png", "prompts": {"1": "vessels"}}


def test_an_entry_is_normalised(tmp_path):
    entry = {
        "image": "a.png",
        "label": ["la.png", "./lb.png"],
        "prompts": {"2": " optic disc ", "01": ["vessels", "blood vessels"]},
        "absent": "pacemaker",
        "spacing": [1, 2],
    }
    path = write(tmp_path, {"training": [entry]})
    assert load_datalist(path) == [
        {
            "image": str(tmp_path / "a.png"),
            "label": [str(tmp_path / "la.png"), str(tmp_path / "lb.png")],
            "prompts": {"1": ["vessels", "blood vessels"], "2": ["optic disc"]},
            "absent": ["pacemaker"],
            "spacing": [1, 2],
        }
    ]


def test_what_is_loaded_is_plain_json(tmp_path):
    loaded = load_datalist(write(tmp_path, {"training": [ENTRY]}))
    assert all(type(key) is str for key in loaded[0])
    assert json.loads(json.dumps(loaded)) == loaded


def test_prompts_of_the_file_hold_for_entries_without(tmp_path):
    own = {"image": "b.png", "label": "lb.png", "prompts": {"3": "lesion"}}
    path = write(tmp_path, {"prompts": {"1": ["vessels"]}, "training": [{"image": "a.png", "label": "la.png"}, own]})
    first, second = load_datalist(path)
    assert first["prompts"] == {"1": ["vessels"]}
    assert second["prompts"] == {"3": ["lesion"]}
    first["prompts"]["1"].append("changed")
    assert load_datalist(path)[0]["prompts"] == {"1": ["vessels"]}


def test_paths_start_from_the_file_or_the_folder_named(tmp_path, monkeypatch):
    path = write(tmp_path, {"training": [ENTRY]})
    (tmp_path / "lists").mkdir()
    moved = write(tmp_path / "lists", {"training": [{**ENTRY, "label": str(tmp_path / "la.png")}]})
    (tmp_path / "lists" / "a.png").unlink()
    monkeypatch.chdir(tmp_path)
    assert load_datalist("datalist.json")[0]["image"] == str(tmp_path / "a.png")
    assert load_datalist(moved, base_dir=".")[0]["image"] == str(tmp_path / "a.png")
    assert load_datalist(moved, base_dir=tmp_path)[0]["label"] == str(tmp_path / "la.png")
    with pytest.raises(DatalistError, match=r"training\[0\]\.image: a\.png does not exist in .*lists"):
        load_datalist(moved)
    assert path.is_file()
    found = load_datalist(moved, must_exist=False)[0]
    assert (found["image"], found["label"]) == (str(tmp_path / "lists" / "a.png"), str(tmp_path / "la.png"))


def test_a_section_for_testing_needs_no_label(tmp_path):
    path = write(tmp_path, {"prompts": {"1": "vessels"}, "testing": ["a.png", {"image": "b.png"}]})
    assert load_datalist(path, "testing") == [
        {"image": str(tmp_path / "a.png"), "prompts": {"1": ["vessels"]}, "absent": []},
        {"image": str(tmp_path / "b.png"), "prompts": {"1": ["vessels"]}, "absent": []},
    ]


@pytest.mark.parametrize("section", ["training", "validation"])
def test_prompts_need_a_label_elsewhere(tmp_path, section):
    path = write(tmp_path, {section: [ENTRY, {"image": "b.png", "prompts": {"1": "vessels"}}]})
    with pytest.raises(DatalistError, match=rf"{section}\[1\]\.label: is missing, but the entry has prompts"):
        load_datalist(path, section)


def test_an_image_of_absent_things_needs_no_label(tmp_path):
    path = write(tmp_path, {"training": [{"image": "a.png", "absent": ["stent"]}]})
    assert load_datalist(path) == [{"image": str(tmp_path / "a.png"), "prompts": {}, "absent": ["stent"]}]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, r"\[0\]: an entry is an object like \{'image': path\}, not int$"),
        ({"label": "la.png"}, r"\[0\]\.image: is missing"),
        ({**ENTRY, "image": "c.png"}, r"\[0\]\.image: c\.png does not exist in "),
        ({**ENTRY, "image": ""}, r"\[0\]\.image: has to be a path, not an empty str$"),
        ({**ENTRY, "image": ["a.png"]}, r"\[0\]\.image: has to be a path, not list$"),
        ({**ENTRY, "label": "c.png"}, r"\[0\]\.label: c\.png does not exist"),
        ({**ENTRY, "label": ["la.png", "c.png"]}, r"\[0\]\.label\[1\]: c\.png does not exist"),
        ({**ENTRY, "label": []}, r"\[0\]\.label: has to be a path, not an empty list$"),
        ({**ENTRY, "prompts": ["vessels"]}, r"\[0\]\.prompts: give a mapping like"),
        ({**ENTRY, "prompts": {"1": ""}}, r"\[0\]\.prompts\['1'\]: a phrase is text that is not empty, not ''"),
        ({**ENTRY, "prompts": {"1": ["vessels", " "]}}, r"\[0\]\.prompts\['1'\]: a phrase is text that is not empty"),
        ({**ENTRY, "prompts": {"1": []}}, r"\[0\]\.prompts\['1'\]: give a phrase or a list of phrases, not \[\]"),
        ({**ENTRY, "prompts": {"1": 5}}, r"\[0\]\.prompts\['1'\]: give a phrase or a list of phrases, not 5"),
        ({**ENTRY, "prompts": {"1": "x" * 513}}, r"\[0\]\.prompts\['1'\]: phrase 'x{24}\.\.\.' has 513 characters"),
        ({**ENTRY, "prompts": {"0": "vessels"}}, r"\[0\]\.prompts: key '0' is no label value"),
        ({**ENTRY, "prompts": {"-1": "vessels"}}, r"\[0\]\.prompts: key '-1' is no label value"),
        ({**ENTRY, "prompts": {"one": "vessels"}}, r"\[0\]\.prompts: key 'one' is no label value"),
        ({**ENTRY, "prompts": {"1": "a", "01": "b"}}, r"\[0\]\.prompts: label value 1 is given twice"),
        ({**ENTRY, "absent": [""]}, r"\[0\]\.absent: a phrase is text"),
        ({**ENTRY, "absent": 3}, r"\[0\]\.absent: give a phrase or a list"),
        ({**ENTRY, "absent": ["Vessels"]}, r"\[0\]\.absent: 'Vessels' is also among the prompts"),
    ],
)
def test_an_entry_that_can_not_be_used_is_named(tmp_path, entry, message):
    path = write(tmp_path, {"training": [entry]})
    with pytest.raises(DatalistError, match=message) as raised:
        load_datalist(path)
    assert str(raised.value).startswith(f"[DATALIST] {path}: training[0]")
    assert "\n" not in str(raised.value)


def test_a_phrase_of_512_characters_is_taken(tmp_path):
    path = write(tmp_path, {"training": [{**ENTRY, "prompts": {"1": "x" * 512}}]})
    assert load_datalist(path)[0]["prompts"] == {"1": ["x" * 512]}


def test_files_that_are_no_datalist_are_named(tmp_path):
    with pytest.raises(DatalistError, match=r"none\.json can't be read: No such file"):
        load_datalist(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"training": [', encoding="utf-8")
    with pytest.raises(DatalistError, match=r"broken\.json is not JSON: .*line 1"):
        load_datalist(tmp_path / "broken.json")
    (tmp_path / "latin.json").write_bytes('{"training": ["é"]}'.encode("latin-1"))
    with pytest.raises(DatalistError, match=r"latin\.json is not JSON"):
        load_datalist(tmp_path / "latin.json")
    with pytest.raises(DatalistError, match=r"has to be an object like .* not a list"):
        load_datalist(write(tmp_path, [ENTRY]))
    with pytest.raises(DatalistError, match="section 'training' has to be a list of entries, not dict"):
        load_datalist(write(tmp_path, {"training": {}}))
    with pytest.raises(DatalistError, match="prompts: key 'x' is no label value"):
        load_datalist(write(tmp_path, {"prompts": {"x": "y"}, "training": [ENTRY]}))


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = write(tmp_path, {})
    path.write_text(json.dumps({"training": [ENTRY]}), encoding="utf-8-sig")
    assert len(load_datalist(path)) == 1


def test_sections_that_are_missing_or_empty_are_errors_unless_optional(tmp_path):
    path = write(tmp_path, {"training": [ENTRY], "testing": []})
    with pytest.raises(DatalistError, match="there is no section 'validation'; sections there: training, testing"):
        load_datalist(path, "validation")
    with pytest.raises(DatalistError, match="section 'testing' is empty"):
        load_datalist(path, "testing")
    assert load_datalist(path, "validation", optional=True) == []
    assert load_datalist(path, "testing", optional=True) == []


def test_prompts_are_sorted_by_value():
    assert parse_prompts({"10": "c", 2: ["b", "bb"], "1": "a"}) == {1: ("a",), 2: ("b", "bb"), 10: ("c",)}
    assert list(parse_prompts({"10": "c", "2": "b"})) == [2, 10]
    for key in (True, 1.0, "1.0", "1_0", None):
        with pytest.raises(DatalistError, match="is no label value"):
            parse_prompts({key: "a"})


def test_the_datalist_given_comes_before_the_folders_own(tmp_path):
    own, other = write(tmp_path, {}), write(tmp_path, {}, "other.json")
    assert resolve_datalist(tmp_path) == own
    assert resolve_datalist(tmp_path, other) == other
    assert resolve_datalist(tmp_path / "not there", other) == other
    with pytest.raises(DatalistError, match=r"datalist .*none\.json does not exist"):
        resolve_datalist(tmp_path, tmp_path / "none.json")
    assert not (tmp_path / "not there").exists()


def test_a_folder_without_a_datalist_is_refused_and_left_alone(tmp_path):
    with pytest.raises(DatalistError, match=r"holds no datalist\.json; make it with 'monai-sa2va datalist"):
        resolve_datalist(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_phantoms_are_made_where_there_is_no_folder(tmp_path, caplog):
    folder = tmp_path / "data" / "phantoms"
    with caplog.at_level(logging.WARNING, logger="monai_sa2va"):
        path = resolve_datalist(folder, count=10, seed=5, size=32)
    assert path == folder / "datalist.json"
    assert caplog.messages == [f"dataset_dir {folder} does not exist: wrote 10 phantoms there"]
    assert [entry.name for entry in folder.parent.iterdir()] == ["phantoms"]
    sections = [load_datalist(path, section, optional=True) for section in ("training", "validation", "testing")]
    assert sum(map(len, sections)) == 10
    assert all(Path(entry["image"]).is_relative_to(folder) for entries in sections for entry in entries)
    before = path.stat().st_mtime_ns
    assert resolve_datalist(folder, count=3) == path
    assert path.stat().st_mtime_ns == before


def test_phantoms_that_fail_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="count"):
        resolve_datalist(tmp_path / "data", count=0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="does not exist, and phantoms can't be written there"):
        resolve_datalist(tmp_path / "file" / "data", count=1)
