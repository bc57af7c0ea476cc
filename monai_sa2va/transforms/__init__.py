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

"""From an image and a sentence to the network's inputs: array transforms ``X`` and dictionary transforms ``Xd``."""

from __future__ import annotations

from monai_sa2va._lazy import lazy_attributes

_TRANSFORMS = {
    "augment": ("AugmentPlanesd", "RandSideAwareFlipd"),
    "clips": ("RandClipd", "StackFrames", "StackFramesd"),
    "frames": ("ClipProcessord", "RandPromptFramed", "SameForFramesd"),
    "geometry": ("PlaneGeometry",),
    "grounding_image": ("GroundingImage", "GroundingImaged"),
    "intensity": ("WINDOWS", "Window", "Windowd", "as_window"),
    "labels": ("LabelMasks", "LabelToMasks", "LabelToMasksd"),
    "load": ("KeepLastd", "LoadPixelsd"),
    "patches": ("PatchImage", "PatchImaged", "find_patch_size"),
    "planes": ("ToPlane", "ToPlaned"),
    "postprocess": ("LogitsToMasks", "LogitsToMasksd", "binarize", "upsample_mask_logits"),
    "processor": ("Sa2VAProcessor", "Sa2VAProcessord"),
    "prompts": ("AskAlld", "RandAskd"),
    "rgb": ("ToRGB", "ToRGBd"),
    "sides": ("names_side",),
    "stacks": ("StackPlanes", "StackPlanesd"),
    "tiles": ("TileImage", "TileImaged", "find_tile_grid"),
}


def _exports() -> dict[str, str]:
    exports = {}
    for module, names in _TRANSFORMS.items():
        for name in names:
            # MONAI's three spellings of a dictionary transform
            aliases = [name[:-1] + "D", name[:-1] + "Dict"] if name[0].isupper() and name[-1] == "d" else []
            exports.update(dict.fromkeys((name, *aliases), f"{__name__}.{module}"))
    return exports


__all__ = sorted(_exports())

__getattr__, __dir__ = lazy_attributes(__name__, _exports())
