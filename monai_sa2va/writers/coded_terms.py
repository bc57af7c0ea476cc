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


"""Codes for what a phrase names: category, type, anatomy and side, as a DICOM SEG needs them.

The table holds names of pydicom's dictionary of SNOMED CT, which is made from the DICOM standard: no code is written
here by hand. What it doesn't know gets the fallback: a region in space, of which nothing is claimed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["FINDINGS", "PLACES", "REGIONS", "STRUCTURES", "CodedTerm", "code_phrase"]

STRUCTURES: dict[str, str] = {
    "abdomen": "Abdomen",
    "adrenal gland": "AdrenalGland",
    "aorta": "Aorta",
    "aortic valve": "AorticValve",
    "artery": "Artery",
    "bladder": "UrinaryBladderStructure",
    "blood vessel": "BloodVessel",
    "bone": "Bone",
    "brain": "Brain",
    "brain stem": "BrainStem",
    "brain ventricle": "BrainVentricle",
    "breast": "Breast",
    "bronchus": "Bronchus",
    "carotid artery": "CarotidArtery",
    "cartilage": "Cartilage",
    "caudate nucleus": "CaudateNucleus",
    "cerebellum": "Cerebellum",
    "cerebral cortex": "CerebralCortex",
    "cervix": "Cervix",
    "clavicle": "Clavicle",
    "colon": "Colon",
    "common carotid artery": "CommonCarotidArtery",
    "cornea": "Cornea",
    "coronary artery": "CoronaryArtery",
    "duodenum": "Duodenum",
    "esophagus": "Esophagus",
    "eye": "Eye",
    "fat": "AdiposeTissue",
    "femoral head": "FemoralHead",
    "femur": "Femur",
    "fibula": "Fibula",
    "fovea": "FoveaCentralis",
    "gallbladder": "Gallbladder",
    "gray matter": "GrayMatter",
    "heart": "Heart",
    "hippocampus": "Hippocampus",
    "humerus": "Humerus",
    "iliac artery": "IliacArtery",
    "inferior vena cava": "InferiorVenaCava",
    "kidney": "Kidney",
    "large intestine": "LargeIntestine",
    "larynx": "Larynx",
    "lateral ventricle": "LateralVentricle",
    "left atrium": "LeftAtrium",
    "left ventricle": "LeftVentricle",
    "liver": "Liver",
    "lung": "Lung",
    "lymph node": "LymphNode",
    "mandible": "Mandible",
    "mediastinum": "Mediastinum",
    "meniscus": "Meniscus",
    "muscle": "Muscle",
    "ovary": "Ovary",
    "pancreas": "Pancreas",
    "parotid gland": "ParotidGland",
    "patella": "Patella",
    "pelvis": "Pelvis",
    "pituitary gland": "Pituitary",
    "placenta": "Placenta",
    "pleura": "Pleura",
    "portal vein": "PortalVein",
    "prostate": "Prostate",
    "pulmonary artery": "PulmonaryArtery",
    "pulmonary vein": "PulmonaryVein",
    "putamen": "Putamen",
    "rectum": "Rectum",
    "renal artery": "RenalArtery",
    "renal vein": "RenalVein",
    "retina": "Retina",
    "rib": "Rib",
    "right atrium": "RightAtrium",
    "right ventricle": "RightVentricle",
    "sacrum": "Sacrum",
    "scapula": "Scapula",
    "seminal vesicle": "SeminalVesicle",
    "skin": "Skin",
    "skull": "Skull",
    "small intestine": "SmallIntestine",
    "spinal cord": "SpinalCord",
    "spine": "Spine",
    "spleen": "Spleen",
    "sternum": "Sternum",
    "stomach": "Stomach",
    "superior vena cava": "SuperiorVenaCava",
    "testis": "Testis",
    "thalamus": "Thalamus",
    "thymus": "Thymus",
    "thyroid": "Thyroid",
    "tibia": "Tibia",
    "tongue": "Tongue",
    "trachea": "Trachea",
    "ulna": "Ulna",
    "uterus": "Uterus",
    "vein": "Vein",
    "vertebra": "Vertebra",
    "white matter": "WhiteMatter",
}
"""Anatomical structures: phrase -> name of its code."""

FINDINGS: dict[str, str] = {
    "abscess": "Abscess",
    "aneurysm": "Aneurysm",
    "cyst": "Cyst",
    "edema": "Edema",
    "glioblastoma": "Glioblastoma",
    "hematoma": "Hematoma",
    "hemorrhage": "Hemorrhage",
    "lesion": "Lesion",
    "mass": "Mass",
    "nodule": "Nodule",
    "plaque": "Plaque",
    "pleural effusion": "PleuralEffusion",
    "pneumothorax": "Pneumothorax",
    "thrombus": "Thrombus",
    "tumor": "Neoplasm",
}
"""What isn't as it should be: phrase -> name of its code."""

REGIONS: dict[str, str] = {
    "intervertebral disc": "Spine",
    "macula": "Retina",
    "myocardium": "Heart",
    "optic disc": "Eye",
}
"""Structures that the dictionary has no code for: phrase -> where they are. They are a region in space there."""

PLACES: dict[str, str] = {
    "brain": "Brain",
    "breast": "Breast",
    "cardiac": "Heart",
    "cerebral": "Brain",
    "hepatic": "Liver",
    "pancreatic": "Pancreas",
    "prostatic": "Prostate",
    "pulmonary": "Lung",
    "renal": "Kidney",
    "retinal": "Retina",
    "splenic": "Spleen",
    "thyroid": "Thyroid",
}
"""Words before a finding or a vessel that say where it is -> name of the code; structures' own names do, too."""

_SAME = {
    "abnormality": "lesion",
    "airway": "trachea",
    "backbone": "spine",
    "bleeding": "hemorrhage",
    "brainstem": "brain stem",
    "focal lesion": "lesion",
    "gall bladder": "gallbladder",
    "grey matter": "gray matter",
    "haematoma": "hematoma",
    "haemorrhage": "hemorrhage",
    "macular region": "macula",
    "neoplasm": "tumor",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "optic nerve head": "optic disc",
    "papilla": "optic disc",
    "tumour": "tumor",
    "urinary bladder": "bladder",
    "vascular tree": "blood vessel",
    "vasculature": "blood vessel",
    "vertebral column": "spine",
    "vessel": "blood vessel",
    "yellow spot": "macula",
}
_PLURALS = {"vertebrae": "vertebra", "arteries": "artery", "ovaries": "ovary", "biopsies": "biopsy", "masses": "mass"}
_SIDES = {"left": "Left", "right": "Right", "bilateral": "Bilateral"}
# names of one structure alone that are another one's part as well: the brain has ventricles, the kidney a pelvis
_ONLY_IN = {"left ventricle": "heart", "right ventricle": "heart", "pelvis": "body"}
_INSIDE = re.compile(r" (?:of|in|within|inside) ")
_ARTICLES = re.compile(r"\b(?:the|a|an|all|any|both)\b")
_VESSELS = ("blood vessel", "artery", "vein")


@dataclass(frozen=True)
class CodedTerm:
    """What a phrase names. Codes are pydicom's ``Code``: value, scheme, meaning.

    Attributes:
        category: of the segmented property, of CID 7150.
        type: of the segmented property.
        side: modifier of the type, or of the anatomy where there is one; ``None`` where none is named.
        anatomy: where a finding or a vessel is; ``None`` where the type itself is a place, or nothing is known.
        known: whether the table knows the phrase; else category and type are the fallback.
    """

    category: Any
    type: Any
    side: Any = None
    anatomy: Any = None
    known: bool = True


def code_phrase(phrase: str) -> CodedTerm:
    """The codes of a phrase such as ``"vessels"``, ``"the left kidney"``, ``"liver tumour"``, ``"nodule in the lung"``.

    A phrase is known as a whole or not at all: a word that isn't understood makes it unknown, as it may change what is
    meant ("artificial heart"). Case, articles and plurals make no difference.
    """
    from pydicom.sr.codedict import codes

    side, head, place = _parts(phrase)
    where = STRUCTURES.get(place) or PLACES.get(place)
    fallback = CodedTerm(codes.SCT.SpatialAndRelationalConcept, codes.DCM.RegionInSpace, known=False)
    if place and (where is None or _ONLY_IN.get(head, place) != place):
        return fallback
    modifier = None if side is None else getattr(codes.SCT, side)
    anatomy = None if where is None else getattr(codes.SCT, where)
    if head in FINDINGS:
        kind = getattr(codes.SCT, FINDINGS[head])
        return CodedTerm(codes.SCT.MorphologicallyAbnormalStructure, kind, modifier, anatomy)
    if head in STRUCTURES:
        kind = getattr(codes.SCT, STRUCTURES[head])
        return CodedTerm(codes.SCT.AnatomicalStructure, kind, modifier, anatomy)
    if head in REGIONS and not place:
        inside = getattr(codes.SCT, REGIONS[head])
        return CodedTerm(codes.SCT.SpatialAndRelationalConcept, codes.DCM.RegionInSpace, modifier, inside)
    return fallback


def _parts(phrase: str) -> tuple[str | None, str, str]:
    """Name of the side's code, what is named, and where it is (empty where that isn't said)."""
    text = " ".join(_ARTICLES.sub(" ", phrase.casefold()).replace("-", " ").split()).strip(" .")
    head, *rest = _INSIDE.split(f" {text} ".replace("  ", " ").strip(), maxsplit=1)
    place = rest[0] if rest else ""
    head, first = _without_side(head)
    place, second = _without_side(place)
    side, plain, place = first or second, _plain(head), _plain(place)
    if not place and plain not in STRUCTURES and plain not in FINDINGS:
        for named in (*FINDINGS, *_VESSELS, *(synonym for synonym in _SAME)):
            before = _singular(head).removesuffix(f" {named}")
            kind = _SAME.get(named, named)
            if before != _singular(head) and (kind in FINDINGS or kind in _VESSELS):
                found = _plain(before)
                if found in STRUCTURES or found in PLACES:
                    return side, kind, found
    return side, plain, place


def _without_side(text: str) -> tuple[str, str | None]:
    first, _, rest = text.partition(" ")
    if _plain(text) in STRUCTURES:
        # "left atrium" is a structure, "left kidney" a side and one
        return text, None
    return (rest, _SIDES[first]) if first in _SIDES and rest else (text, None)


def _plain(text: str) -> str:
    """Singular, and the one of several words for a thing that the tables have."""
    single = _singular(text)
    return _SAME.get(text, _SAME.get(single, single))


def _singular(text: str) -> str:
    *before, last = text.split() or [""]
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith("s") and not last.endswith(("ss", "us", "is", "as")):
        last = last[:-1]
    return " ".join([*before, last])
