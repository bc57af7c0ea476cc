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

"""What a model makes of names that its training never used: other synonyms, other languages.

``python benchmarks/words.py --checkpoint FILE`` asks for each structure of unseen phantoms by its own
name, by a synonym that no phantom's datalist has, and in German, French, Spanish and Chinese, and prints the Dice by
structure and way. The sentence around the name stays English.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from scoring import PLAIN, Case, ask, load_segmenter, make_cases, print_table, score

from monai_sa2va.data.phantoms import SYNONYMS
from monai_sa2va.errors import PromptError, Sa2VAError
from monai_sa2va.metrics import PromptScores
from monai_sa2va.predictor import Segmenter

__all__ = ["WORDS", "measure"]

WORDS: Mapping[str, Mapping[str, str]] = {
    "synonym": {
        "vessels": "arteries and veins",
        "lesion": "pathology",
        "optic disc": "blind spot",
        "macula": "fovea",
        "liver": "hepatic organ",
        "kidney": "renal organ",
        "spine": "vertebral body",
        "cyst": "vesicle",
        "nodule": "lump",
    },
    "German": {
        "vessels": "Gefäße",
        "lesion": "Läsion",
        "optic disc": "Sehnervenkopf",
        "macula": "Makula",
        "liver": "Leber",
        "kidney": "Niere",
        "spine": "Wirbelsäule",
        "cyst": "Zyste",
        "nodule": "Knoten",
    },
    "French": {
        "vessels": "vaisseaux",
        "lesion": "lésion",
        "optic disc": "papille optique",
        "macula": "tache jaune",
        "liver": "foie",
        "kidney": "rein",
        "spine": "colonne vertébrale",
        "cyst": "kyste",
        "nodule": "nodosité",
    },
    "Spanish": {
        "vessels": "vasos",
        "lesion": "lesión",
        "optic disc": "disco óptico",
        "macula": "mácula",
        "liver": "hígado",
        "kidney": "riñón",
        "spine": "columna vertebral",
        "cyst": "quiste",
        "nodule": "nódulo",
    },
    "Chinese": {
        "vessels": "血管",
        "lesion": "病变",
        "optic disc": "视盘",
        "macula": "黄斑",
        "liver": "肝脏",
        "kidney": "肾脏",
        "spine": "脊柱",
        "cyst": "囊肿",
        "nodule": "结节",
    },
}
"""Names that the phantoms' datalists don't hold, by what they are and by structure."""


def measure(segmenter: Segmenter, cases: Sequence[Case], words: Mapping[str, str]) -> PromptScores:
    """Dice by structure, each asked for by its word; a sentence that can't be read counts as an empty mask."""
    triples = []
    for case in cases:
        for name, truth in case.masks.items():
            try:
                (mask,), _ = ask(segmenter, case, [PLAIN.format(words[name])])
            except PromptError:
                mask = truth & False
            triples.append((name, mask, truth))
    return score(triples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="file of weights")
    parser.add_argument("--count", type=int, default=64, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=9000, help="seed of the first one")
    parser.add_argument("--size", type=int, default=128, help="side of an image, pixels")
    arguments = parser.parse_args()
    try:
        segmenter = load_segmenter(arguments.checkpoint)
        cases = make_cases(arguments.count, arguments.seed, arguments.size)
        own = {name: name for name in SYNONYMS}
        found = {way: measure(segmenter, cases, words) for way, words in {"own name": own, **WORDS}.items()}
    except Sa2VAError as error:
        sys.exit(f"words.py: {error}")
    print_table(
        f"{arguments.count} phantoms of seeds from {arguments.seed} on",
        ["prompt", *found],
        [[name, *(scores.by_name.get(name) for scores in found.values())] for name in found["own name"].by_name],
        ["mean over prompts", *(scores.mean for scores in found.values())],
    )


if __name__ == "__main__":
    main()
