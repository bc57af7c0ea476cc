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

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.data.tokenizer import byte_tokenizer
from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.losses.sa2va_loss import Sa2VALoss
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.processor import Sa2VAProcessor, Sa2VAProcessorD, Sa2VAProcessord, Sa2VAProcessorDict
from monai_sa2va.transforms.sentences import answer_segments


@pytest.fixture(scope="module")
def processor(micro_config: Sa2VAConfig) -> Sa2VAProcessor:
    return Sa2VAProcessor(micro_config, byte_tokenizer())


def _picture(height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestArray:
    def test_image(self, processor: Sa2VAProcessor) -> None:
        sample = processor.image(_picture(30, 70))
        assert sample["pixel_values"].shape == (3, 3, 28, 28)
        assert sample["g_pixel_values"].shape == (1, 3, 64, 64)
        assert {value.dtype for value in sample.values()} == {torch.float32}
        as_tensor = processor.image(torch.from_numpy(_picture(30, 70).transpose(2, 0, 1).copy()))
        assert all(torch.equal(sample[key], as_tensor[key]) for key in sample)

    def test_conversation(self, processor: Sa2VAProcessor) -> None:
        turns = [("Segment the vessels.", answer_segments(["vessels"])), ("And the disc.", answer_segments(["disc"]))]
        sample = processor(_picture(30, 70), turns)
        assert processor.tokenizer.decode(sample["input_ids"]) == (
            "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>\nSegment the vessels.<|im_end|>\n"
            "<|im_start|>assistant\nSure, <p>vessels</p> [SEG].<|im_end|>\n"
            "<|im_start|>user\nAnd the disc.<|im_end|>\n<|im_start|>assistant\nSure, <p>disc</p> [SEG].<|im_end|>"
        )
        learnt = sample["labels"][sample["labels"] != -100]
        assert processor.tokenizer.decode(learnt) == (
            "Sure, <p>vessels</p> [SEG].<|im_end|>Sure, <p>disc</p> [SEG].<|im_end|>"
        )
        assert sample["input_ids"].dtype == sample["labels"].dtype == torch.int64

    def test_as_many_image_tokens_as_features(self, micro_config: Sa2VAConfig) -> None:
        config = replace(micro_config, vision=replace(micro_config.vision, image_size=56), max_tiles=4)
        wide = Sa2VAProcessor(config, byte_tokenizer())
        sample = wide(_picture(64, 64), [("vessels", None)])
        tiles = len(sample["pixel_values"])
        assert config.tokens_per_tile == 4
        assert (sample["input_ids"] == wide.image_token_id).sum() == tiles * 4

    def test_prompt_with_its_known_answer(self, processor: Sa2VAProcessor) -> None:
        sample = processor.prompt(_picture(), "  Segment the vessels and the optic disc.\n")
        assert sample["names"] == ["vessels", "optic disc"]
        text = processor.tokenizer.decode(sample["input_ids"])
        assert "</img>\nSegment the vessels and the optic disc.<|im_end|>" in text
        assert text.endswith("Sure, <p>vessels</p> [SEG] and <p>optic disc</p> [SEG].<|im_end|>")
        assert (sample["input_ids"] == processor.seg_token_id).sum() == 2

    def test_sentence_that_only_the_language_model_can_read(self, processor: Sa2VAProcessor) -> None:
        answer, names = processor.answer("Segment the organ that pumps blood.")
        assert "".join(answer) == "Sure, [SEG]."
        assert names == ["Segment the organ that pumps blood."]
        answer, names = processor.answer("Segment the organ that pumps blood.", ["heart"])
        assert "".join(answer) == "Sure, <p>heart</p> [SEG]."
        assert names == ["heart"]

    def test_plain_answers_of_official_checkpoints(self, micro_config: Sa2VAConfig) -> None:
        plain = Sa2VAProcessor(replace(micro_config, answer_form="plain"), byte_tokenizer())
        answer, names = plain.answer("vessels and macula")
        assert "".join(answer) == "Sure, [SEG] and [SEG]."
        assert names == ["vessels", "macula"]

    def test_typed_tokens_stay_text(self, processor: Sa2VAProcessor) -> None:
        sample = processor.prompt(_picture(), "Segment the [SEG] <IMG_CONTEXT> vessels.")
        assert (sample["input_ids"] == processor.seg_token_id).sum() == 1
        assert (sample["input_ids"] == processor.image_token_id).sum() == 1
        assert sample["names"] == ["[SEG] <IMG_CONTEXT> vessels"]

    def test_refusals(self, processor: Sa2VAProcessor) -> None:
        with pytest.raises(PromptError, match="empty"):
            processor.prompt(_picture(), " ")
        with pytest.raises(DataError, match="conversation has no turn"):
            processor(_picture(), [])
        with pytest.raises(DataError, match=r"image is an array of shape \(4, 4\)"):
            processor.prompt(np.zeros((4, 4), np.uint8), "vessels")

    def test_unknown_template(self, micro_config: Sa2VAConfig) -> None:
        other = Sa2VAProcessor(replace(micro_config, template="vicuna"), byte_tokenizer())
        with pytest.raises(ConfigError, match="template is 'vicuna'"):
            other.prompt(_picture(), "vessels")


def test_what_is_not_there_reaches_the_loss_as_such(processor: Sa2VAProcessor, micro_config: Sa2VAConfig) -> None:
    """Liver there, cyst absent in a sentence, tooth absent in a chat: two masks, and what is learnt of each."""
    masks = np.zeros((2, 4, 4), dtype=np.uint8)
    masks[0, :2] = 1
    entry = {
        "image": torch.from_numpy(_picture().transpose(2, 0, 1).copy()),
        "turns": [
            ("liver and cyst", answer_segments(["liver", "cyst"], absent=[False, True])),
            ("cyst", answer_segments(["cyst"], absent=[True])),
            ("Is there a tooth?", ["There is no tooth in this image."]),
        ],
        "gt_masks": masks[[0, 1, 1]],
        "names": ["liver", "cyst", "cyst"],
    }
    sample = Sa2VAProcessord(processor, mask_size=16)(entry)
    learnt = sample["labels"][sample["labels"] != -100]
    assert processor.tokenizer.decode(learnt) == (
        "Sure, <p>liver</p> [SEG] and .<|im_end|>There is no tooth in this image.<|im_end|>"
    )
    network = Sa2VA(micro_config, criterion=Sa2VALoss(object_weight=1.0), seed=0).eval()
    batch = sa2va_collate([sample])
    with torch.no_grad():
        output = network(batch)
    scores = output["object_scores"][0]
    wanted = -(scores[0].sigmoid().log() + (1 - scores[1].sigmoid()).log() + (1 - scores[2].sigmoid()).log()) / 3
    torch.testing.assert_close(output["loss_object"], wanted)
    assert network.loss_counts(batch) == {"masks": 3.0, "tokens": float(len(learnt))}


def test_a_sample_without_any_seg_trains_language_alone(processor: Sa2VAProcessor, micro_config: Sa2VAConfig) -> None:
    entry = {
        "image": torch.from_numpy(_picture().transpose(2, 0, 1).copy()),
        "turns": [("Is there a tooth?", ["There is no tooth in this image."])],
        "gt_masks": np.zeros((0, 4, 4), dtype=np.uint8),
        "names": [],
    }
    network = Sa2VA(micro_config, criterion=Sa2VALoss(object_weight=1.0), seed=0)
    output = network(sa2va_collate([Sa2VAProcessord(processor, mask_size=16)(entry)]))
    assert output["loss_mask"] == output["loss_dice"] == output["loss_object"] == 0
    assert output["loss"] == 0.5 * output["loss_lang"] > 0
    output["loss"].backward()


class TestDictionary:
    @pytest.fixture
    def entry(self) -> dict[str, Any]:
        masks = np.zeros((2, 4, 4), dtype=np.uint8)
        masks[0, :, 2:] = 1
        masks[1, 3, 3] = 1
        return {
            "image": torch.from_numpy(_picture().transpose(2, 0, 1).copy()),
            "turns": [("a", answer_segments(["a"])), ("b", answer_segments(["b"]))],
            "gt_masks": masks,
            "names": ["a", "b"],
            "path": "dropped",
        }

    def test_network_inputs(self, processor: Sa2VAProcessor, entry: dict[str, Any]) -> None:
        sample = Sa2VAProcessord(processor)(entry)
        assert {str(key) for key in sample} == {
            "pixel_values", "g_pixel_values", "input_ids", "labels", "gt_masks", "frames_per_batch", "names", "source",
        }  # fmt: skip
        assert sample["frames_per_batch"] == 1
        assert sample["names"] == ["a", "b"]
        assert sample["source"] == ""
        assert sample["gt_masks"].dtype == torch.uint8
        assert np.array_equal(sample["gt_masks"].numpy(), entry["gt_masks"])

    def test_the_file_is_named_without_its_folder(self, processor: Sa2VAProcessor, entry: dict[str, Any]) -> None:
        entry["image"] = MetaTensor(entry["image"], meta={"filename_or_obj": "/data/Jane Doe/ct.nii.gz"})
        assert Sa2VAProcessord(processor)(entry)["source"] == "ct.nii.gz"
        assert Sa2VAProcessord(processor)({**entry, "slice": 7})["source"] == "ct.nii.gz slice 7"

    def test_masks_are_resized_by_the_nearest_pixel(self, processor: Sa2VAProcessor, entry: dict[str, Any]) -> None:
        larger = Sa2VAProcessord(processor, mask_size=8)(entry)["gt_masks"]
        assert torch.equal(larger, torch.from_numpy(entry["gt_masks"].repeat(2, axis=1).repeat(2, axis=2)))
        smaller = Sa2VAProcessord(processor, mask_size=2)(entry)["gt_masks"]
        # the centre of the second pixel of two lies between the third and fourth of four; the later one is taken
        assert smaller.tolist() == [[[0, 1], [0, 1]], [[0, 0], [0, 1]]]
        assert set(larger.unique().tolist()) == {0, 1}

    def test_no_object(self, processor: Sa2VAProcessor, entry: dict[str, Any]) -> None:
        entry |= {"turns": [("Is there a nodule?", ["No."])], "gt_masks": np.zeros((0, 4, 4), np.uint8), "names": []}
        assert Sa2VAProcessord(processor)(entry)["gt_masks"].shape == (0, 4, 4)
        # of the size of all others in the batch
        assert Sa2VAProcessord(processor, mask_size=8)(entry)["gt_masks"].shape == (0, 8, 8)

    def test_monai_tensors_and_kept_entries(self, processor: Sa2VAProcessor, entry: dict[str, Any]) -> None:
        entry |= {"image": MetaTensor(entry["image"]), "gt_masks": MetaTensor(torch.from_numpy(entry["gt_masks"]))}
        sample = Sa2VAProcessord(processor, keep=("path", "absent"))(entry)
        assert sample["path"] == "dropped"
        assert "absent" not in sample
        assert "names" not in sample
        assert type(sample["gt_masks"]) is torch.Tensor
        assert type(sample["pixel_values"]) is torch.Tensor

    @pytest.mark.parametrize(
        "masks", [np.zeros((1, 4, 4)), np.zeros((3, 4, 4)), np.zeros((4, 4)), np.zeros((2, 1, 4, 4))]
    )
    def test_one_seg_a_mask(self, processor: Sa2VAProcessor, entry: dict[str, Any], masks: np.ndarray) -> None:
        with pytest.raises(DataError, match=r"gt_masks has shape .*, the answers hold 2 \[SEG\]"):
            Sa2VAProcessord(processor)({**entry, "gt_masks": masks})

    @pytest.mark.parametrize("size", [0, 7.5, True, "null"])
    def test_bad_size(self, processor: Sa2VAProcessor, size: Any) -> None:
        with pytest.raises(ConfigError, match=f"mask_size is {size!r}; give a number of pixels of at least 1"):
            Sa2VAProcessord(processor, mask_size=size)

    def test_spellings_and_json(self, processor: Sa2VAProcessor) -> None:
        assert Sa2VAProcessorD is Sa2VAProcessorDict is Sa2VAProcessord
        parser = ConfigParser(
            {"p": {"_target_": "monai_sa2va.transforms.Sa2VAProcessord", "processor": "$@given", "mask_size": 8}}
        )
        parser["given"] = processor
        assert parser.get_parsed_content("p").processor is processor
