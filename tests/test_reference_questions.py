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

"""``predict_forward``: questions as the reference's users ask them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.predictor import Segmenter

LPS = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Sa2VA("tiny", seed=0), device="cpu")


def test_predict_forward_gives_the_references_dictionary(segmenter: Segmenter) -> None:
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    text, answer = "<image>Segment the vessels.", "It is [SEG] and [SEG]."
    found = segmenter.predict_forward(image=picture, text=text, answer=answer, tokenizer=segmenter.network.tokenizer)
    assert sorted(found) == ["prediction", "prediction_masks"]
    assert found["prediction"] == "It is [SEG] and [SEG].<|im_end|>"
    assert [(mask.shape, mask.dtype) for mask in found["prediction_masks"]] == [((1, 20, 30), np.dtype(bool))] * 2
    # a list gives a list, a text of its own for each
    several = segmenter.predict_forward([picture, np.asarray(picture)], text=[text, text], answer=answer)
    for one in several:
        np.testing.assert_array_equal(one["prediction_masks"], found["prediction_masks"])
    assert segmenter.predict_forward([], text=text) == []


def test_frames_of_a_video_come_as_a_list_an_array_or_a_volume(segmenter: Segmenter) -> None:
    grey = np.random.default_rng(4).integers(0, 256, (6, 16, 24), dtype=np.uint8)
    asked = {"text": "<image>Segment the vessels.", "answer": "It is [SEG]."}
    listed = segmenter.predict_forward(video=list(grey), **asked)["prediction_masks"]
    assert listed[0].shape == (6, 16, 24)
    stacked = segmenter.predict_forward(video=np.repeat(grey[..., None], 3, axis=3), **asked)["prediction_masks"]
    np.testing.assert_array_equal(stacked[0], listed[0])
    # x to the patient's left and y to posterior: rows and columns as they are displayed
    volume = MetaTensor(torch.from_numpy(grey.transpose(2, 1, 0).copy())[None], affine=torch.diag(LPS))
    cine = segmenter.predict_forward(video=volume, **asked)["prediction_masks"]
    assert cine[0].shape == (6, 16, 24)


def test_questions_that_cant_be_asked(segmenter: Segmenter) -> None:
    picture, text = np.zeros((8, 9, 3), np.uint8), "<image>Segment the vessels."
    ask = segmenter.predict_forward
    with pytest.raises(PromptError, match="image and video are both given"):
        ask(picture, [picture], text)
    with pytest.raises(PromptError, match="text is empty"):
        ask(picture)
    with pytest.raises(PromptError, match="text has 1 entries for 2 images"):
        ask([picture, picture], text=[text])
    with pytest.raises(PromptError, match="mask_prompts has 2 entries; give a list with one"):
        ask(picture, text=text, mask_prompts=[np.ones((1, 8, 9))] * 2)
    with pytest.raises(DataError, match=r"video is an array of shape \(8, 9, 3\)"):
        ask(video=picture, text=text)
    with pytest.raises(DataError, match="a volume of 2 slices; give it as video"):
        ask(MetaTensor(torch.zeros(1, 3, 4, 2), affine=torch.eye(4)), text=text)
    with pytest.raises(PromptError, match=r"mask_prompts is a int; give a list with one \(n, H, W\) array"):
        ask(picture, text=text, mask_prompts=5)
    with pytest.raises(DataError, match="the list of images holds None"):
        ask([picture, None], text=text)
    with pytest.raises(PromptError, match="answer is a list; give a text, the same for all pictures, or None"):
        ask([picture, picture], text=text, answer=["[SEG]", "[SEG]"])
    with pytest.raises(ConfigError, match="tokenizer is a str; leave it out"):
        ask(picture, text=text, tokenizer="bytes")
    other = byte_tokenizer()
    other.add_tokens(["new"])
    with pytest.raises(ConfigError, match=r"the tokenizer has 268 tokens, \[SEG\] being 262; the network's has 267"):
        ask(picture, text=text, tokenizer=other)
