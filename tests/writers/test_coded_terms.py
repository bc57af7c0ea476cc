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

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from pydicom.sr._concepts_dict import concepts
from pydicom.sr.codedict import codes

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.writers.coded_terms import FINDINGS, PLACES, REGIONS, STRUCTURES, code_phrase


@pytest.mark.parametrize("table", [STRUCTURES, FINDINGS, REGIONS, PLACES])
def test_every_name_is_a_code_of_the_standard(table: dict[str, str]) -> None:
    # a misspelt name would only be found when its phrase is used
    missing = [name for name in table.values() if name not in concepts["SCT"]]
    assert missing == []


@pytest.mark.parametrize(
    ("phrase", "category", "kind", "side", "anatomy"),
    [
        ("aorta", "91723000", "15825003", None, None),
        ("the left kidney", "91723000", "64033007", "7771000", None),
        ("Kidneys", "91723000", "64033007", None, None),
        ("vertebrae", "91723000", "51282000", None, None),
        ("left atrium", "91723000", "82471001", None, None),
        ("urinary bladder", "91723000", "89837001", None, None),
        ("blood vessels", "91723000", "59820001", None, None),
        ("retinal vessels", "91723000", "59820001", None, "5665001"),
        ("lung vessel", "91723000", "59820001", None, "39607008"),
        ("vessels of the liver", "91723000", "59820001", None, "10200004"),
        ("liver tumour", "49755003", "108369006", None, "10200004"),
        ("pulmonary nodules", "49755003", "27925004", None, "39607008"),
        ("nodule in the right lung", "49755003", "27925004", "24028007", "39607008"),
        ("thrombus in the left atrium", "49755003", "396339007", None, "82471001"),
        ("left ventricle of the heart", "91723000", "87878005", None, "80891009"),
        ("left ventricle of the brain", "309825002", "130488", None, None),
        ("pelvis of the left kidney", "309825002", "130488", None, None),
        ("cyst", "49755003", "367643001", None, None),
        ("optic disc", "309825002", "130488", None, "81745001"),
        ("artificial heart", "309825002", "130488", None, None),
        ("what hurts", "309825002", "130488", None, None),
        ("lesion of the unknown", "309825002", "130488", None, None),
    ],
)
def test_phrases(phrase: str, category: str, kind: str, side: str | None, anatomy: str | None) -> None:
    term = code_phrase(phrase)
    values = [None if code is None else code.value for code in (term.category, term.type, term.side, term.anatomy)]
    assert values == [category, kind, side, anatomy]


def test_the_fallback_claims_nothing() -> None:
    term = code_phrase("no such thing")
    assert (term.category, term.type) == (codes.SCT.SpatialAndRelationalConcept, codes.DCM.RegionInSpace)
    assert not term.known
    assert code_phrase("spleen").known


@pytest.mark.parametrize("name", sorted(SYNONYMS))
def test_the_phantoms_structures_are_known(name: str) -> None:
    assert code_phrase(name).known
    assert code_phrase(name).type == code_phrase(f"the {name}").type
