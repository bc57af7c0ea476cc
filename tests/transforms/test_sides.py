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

"""Phrases that name a side, in several languages, and phrases that only look so."""

from __future__ import annotations

import pytest

from monai_sa2va.transforms.sides import names_side


@pytest.mark.parametrize(
    "phrase",
    [
        "left kidney", "the RIGHT lung", "Right-sided effusion", "l. kidney", "R. kidney", "kidney (L)", "Lt breast",
        "ren sinister", "atrium dextrum", "ventriculus dexter", "linke Niere", "rechte Niere", "der linken Lunge",
        "linksventrikulär", "rechter Lappen", "nier rechts", "rein gauche", "poumon droit", "l'artère carotide droite",
        "riñón izquierdo", "pulmones derechos", "rim direito", "rene destro", "rene sx", "левая почка", "правое лёгкое",
        "左肾", "右肺", "왼쪽 폐", "optic disc OD", "fundus os", "LV cavity", "proximal LAD", "RLL nodule",
        "levocardia", "dextroscoliosis",
        # TotalSegmentator's names of labels
        "kidney_left", "lung_upper_lobe_left", "lung_lower_lobe_right", "iliac_artery_right", "autochthon_left",
        "gluteus_maximus_right", "heart_atrium_left", "rib_left_1", "brachiocephalic_vein_left", "scapula_right",
        # other ways of joining and abbreviating
        "kidneyLeft", "kidneyL", "LKidney", "eye_LKidney", "L_kidney", "eye_L", "l kidney", "kidney (l)", "kidney, r",
        "R", "lh cortex", "ctx-rh-precuneus", "disc_od", "oculus dexter", "oculus",
        "vänster njure", "höger lunga", "högra lungan", "venstre nyre", "høyre lunge", "højre lunge",
        "lewa nerka", "prawe płuco", "nerki lewej", "bal vese", "jobb tüdő", "baloldali vese",
    ],
)  # fmt: skip
def test_a_side_is_named(phrase: str) -> None:
    assert names_side(phrase)


@pytest.mark.parametrize(
    "phrase",
    [
        "vessels", "optic disc", "bright lesion", "aorta", "la aorta", "l'aorte", "L'aorte", "L5 vertebra", "cleft lip",
        "upright posture", "Lungenlappen", "link between vessels", "rv", "droplet", "", "body of the pancreas",
        "liver", "colon", "lesion", "bright spot", "bright_spot", "l’aorte", "balloon", "levator ani", "prawn", "mRNA",
        "vertebrae_L1", "vertebrae_L2", "vertebrae_L3", "vertebrae_L4", "vertebrae_L5", "small_bowel", "portal_vein",
        "portal_vein_and_splenic_vein", "inferior_vena_cava", "gallbladder", "rib", "sternum", "opticDisc",
    ],
)  # fmt: skip
def test_no_side_is_named(phrase: str) -> None:
    assert not names_side(phrase)


def test_prompts_are_searched_however_deep() -> None:
    assert names_side({"1": ["vessels"], "2": ["disc", "left disc"]})
    assert names_side(["a", ("b", "right c")])
    assert not names_side({"1": ["vessels"], "2": "left-out".replace("left", "kept")})
    assert not names_side(None)
    # keys are no phrases
    assert not names_side({"left": "vessels"})
