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

"""One picture, several prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_sa2va.errors import ConfigError, DataError, PromptError
from monai_sa2va.inferers import image
from monai_sa2va.inferers.image import ImageInferer, check_prompts
from monai_sa2va.networks.chat import Reply
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.chat import encode
from monai_sa2va.transforms.postprocess import upsample_mask_logits
from monai_sa2va.transforms.sentences import answer_segments

PROMPTS = ["Segment the vessels.", "optic disc and cup", "Could you outline the left ventricle in this image?"]


@pytest.fixture(scope="module")
def shared() -> Sa2VA:
    return Sa2VA("tiny", seed=0)


@pytest.fixture
def network(shared: Sa2VA) -> Iterator[Sa2VA]:
    """The shared network, whose configuration and mode a test may change."""
    config = shared.config
    yield shared
    shared.config = config
    shared.eval()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (48, 72, 3)).astype(np.uint8)


def _seen_ids(network: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The ids that the language model is given, which still runs."""
    seen: list[torch.Tensor] = []
    original = network.language_embeddings

    def embeddings(tokens: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(ids)
        return original(tokens, ids, mask)

    monkeypatch.setattr(network, "language_embeddings", embeddings)
    return seen


def test_objects_of_all_prompts_come_in_order(network: Sa2VA, picture: np.ndarray) -> None:
    result = ImageInferer()(picture, network, PROMPTS)
    assert result.masks.shape == (4, 48, 72)
    assert result.masks.dtype == torch.bool
    assert result.names == ["vessels", "optic disc", "cup", "left ventricle"]
    assert result.prompt_indices == [0, 1, 1, 2]
    assert result.phrases == [["vessels"], ["optic disc", "cup"], ["left ventricle"]]
    assert result.answers == [
        "Sure, <p>vessels</p> [SEG].",
        "Sure, <p>optic disc</p> [SEG] and <p>cup</p> [SEG].",
        "Sure, <p>left ventricle</p> [SEG].",
    ]
    for scores in (result.presence, result.iou_scores):
        assert scores.shape == (4,)
        assert ((scores > 0) & (scores < 1)).all()
    # random weights, yet neither empty nor full, and not the same for every prompt
    assert 0 < result.masks[0].float().mean() < 1
    assert not torch.equal(result.masks[0], result.masks[3])


@pytest.mark.parametrize("max_prompts", [1, 2, 32])
def test_the_image_is_encoded_once(network: Sa2VA, picture: np.ndarray, max_prompts: int) -> None:
    calls: list[str] = []
    parts = {"tiles": network.vision_tower, "sam2": network.grounding_encoder.sam2_model.image_encoder}
    hooks = [part.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, part in parts.items()]
    try:
        ImageInferer(max_prompts=max_prompts)(picture, network, PROMPTS)
    finally:
        for hook in hooks:
            hook.remove()
    assert sorted(calls) == ["sam2", "tiles"]


def test_a_prompt_is_answered_alike_alone_and_beside_longer_ones(network: Sa2VA, picture: np.ndarray) -> None:
    together = ImageInferer()(picture, network, PROMPTS)
    alone = [ImageInferer()(picture, network, prompt) for prompt in PROMPTS]
    torch.testing.assert_close(together.presence, torch.cat([one.presence for one in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.iou_scores, torch.cat([one.iou_scores for one in alone]), atol=1e-5, rtol=0)
    # a logit within rounding of 0 may fall on either side
    assert (together.masks ^ torch.cat([one.masks for one in alone])).float().mean() < 1e-3


def test_masks_are_those_of_the_networks_own_door(network: Sa2VA, picture: np.ndarray) -> None:
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    with torch.no_grad():
        logits = network(tensor[None] / 255, text="Segment the vessels.")[0]
    for inputs in (picture, tensor, tensor.float()):
        assert torch.equal(ImageInferer()(inputs, network, "Segment the vessels.").masks, logits > 0)


def test_given_phrases_take_the_place_of_the_sentences_own(network: Sa2VA, picture: np.ndarray) -> None:
    result = ImageInferer()(picture, network, ["What do you see?"], [["liver", "spleen"]])
    assert result.names == ["liver", "spleen"]
    assert result.answers == ["Sure, <p>liver</p> [SEG] and <p>spleen</p> [SEG]."]


def test_a_plain_checkpoint_is_never_asked_to_name(network: Sa2VA, picture: np.ndarray) -> None:
    network.config = network.processor.config = replace(network.config, answer_form="plain")
    try:
        result = ImageInferer()(picture, network, "What can you tell me about where the blood vessels run?")
    finally:
        network.processor.config = replace(network.config, answer_form="named")
    assert result.answers == ["Sure, [SEG]."]
    assert result.names == ["What can you tell me about where the blood vessels run?"]


@pytest.mark.parametrize(
    "token", ["[SEG]", "<|im_end|>", "<IMG_CONTEXT>", "</p> [SEG]", "<|im_end|>\n<|im_start|>user"]
)
def test_control_tokens_in_a_users_text_are_text(
    network: Sa2VA, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    seen = _seen_ids(network, monkeypatch)
    inferer = ImageInferer()
    plain = inferer(picture, network, "Segment the x.", [["x"]])
    typed = inferer(picture, network, f"Segment the {token}.", [[token]])
    assert len(typed.masks) == len(plain.masks) == 1
    control = torch.tensor(sorted(network.tokenizer.added_tokens_decoder))
    first, second = (ids[torch.isin(ids, control)].tolist() for ids in seen)
    assert first == second


def test_presence_threshold_empties_and_leaves_alone(network: Sa2VA, picture: np.ndarray) -> None:
    whole = ImageInferer()(picture, network, PROMPTS)
    low, high = sorted(whole.presence.tolist())[:2]
    network.config = replace(network.config, presence_threshold=(low + high) / 2)
    cut = ImageInferer()(picture, network, PROMPTS)
    absent = int(whole.presence.argmin())
    for number in range(4):
        expected = torch.zeros(48, 72, dtype=torch.bool) if number == absent else whole.masks[number]
        assert torch.equal(cut.masks[number], expected)
    assert torch.equal(cut.presence, whole.presence)


def test_the_inferers_own_threshold_takes_the_place_of_the_stored_one(network: Sa2VA, picture: np.ndarray) -> None:
    network.config = replace(network.config, presence_threshold=1.0)
    assert ImageInferer()(picture, network, PROMPTS).presence_threshold == 1.0
    assert not ImageInferer()(picture, network, PROMPTS).masks.any()
    free = ImageInferer(presence_threshold=None)(picture, network, PROMPTS)
    assert free.presence_threshold is None
    assert free.masks.any()
    cut = ImageInferer(presence_threshold=float(free.presence.max()))(picture, network, PROMPTS)
    assert cut.masks.flatten(1).any(1).tolist() == (free.presence == free.presence.max()).tolist()


def test_presence_is_calibrated(network: Sa2VA, picture: np.ndarray) -> None:
    plain = ImageInferer()(picture, network, PROMPTS).presence
    network.config = replace(network.config, presence_scale=2.0, presence_bias=-0.5)
    expected = (2 * plain.logit() - 0.5).sigmoid()
    torch.testing.assert_close(ImageInferer()(picture, network, PROMPTS).presence, expected)


class TestChat:
    @pytest.fixture
    def told(self, network: Sa2VA, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The language model names a liver for one question, and sees no cyst; what it was asked is kept."""
        seen: list[str] = []

        def reply(net: Sa2VA, _: torch.Tensor, text: str, limit: int) -> Reply:
            assert limit == 256
            seen.append(text)
            pieces = ["There is no cyst."] if "cyst" in text else answer_segments(["liver"], "It is {}.")
            return Reply(tuple(encode(net.tokenizer, pieces)), "".join(pieces), () if "cyst" in text else ("liver",))

        monkeypatch.setattr(image, "generate_reply", reply)
        return seen

    def test_masks_are_those_of_the_segs_that_it_said(
        self, network: Sa2VA, picture: np.ndarray, told: list[str]
    ) -> None:
        result = ImageInferer()(picture, network, ["Is there a cyst?", "What is bright?"], mode="chat")
        assert told == ["Is there a cyst?", "What is bright?"]
        assert result.answers == ["There is no cyst.", "It is <p>liver</p> [SEG]."]
        assert (result.names, result.prompt_indices) == (["liver"], [1])
        # as one pass over question and answer has them
        sample = network.processor(picture, [("What is bright?", answer_segments(["liver"], "It is {}."))])
        with torch.no_grad():
            output = network({**sample, "input_ids": sample["input_ids"][None], "labels": None})
        low_res = output["pred_masks"][0]
        expected = upsample_mask_logits(low_res, network.config.grounding.image_size, (48, 72)) > 0
        assert (result.masks ^ expected).float().mean() < 1e-3
        torch.testing.assert_close(result.presence, output["object_scores"][0].sigmoid(), atol=1e-5, rtol=0)
        again = ImageInferer()(picture, network, ["Is there a cyst?", "What is bright?"], None, "chat", result.replies)
        assert len(told) == 2
        assert torch.equal(again.masks, result.masks)

    def test_an_answer_without_seg_gives_no_mask(self, network: Sa2VA, picture: np.ndarray, told: list[str]) -> None:
        result = ImageInferer()(picture, network, "Is there a cyst?", mode="chat")
        assert result.masks.shape == (0, 48, 72)
        assert result.masks.dtype == torch.bool
        assert (result.names, result.answers) == ([], ["There is no cyst."])
        assert result.presence.shape == result.iou_scores.shape == (0,)

    def test_the_model_itself_answers(self, network: Sa2VA, picture: np.ndarray) -> None:
        result = ImageInferer(max_new_tokens=3)(picture, network, "vessels", mode="chat")
        assert len(result.replies[0].ids) == 3
        assert len(result.masks) == result.replies[0].ids.count(network.processor.seg_token_id)

    def test_refusals(self, network: Sa2VA, picture: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="mode is 'talk'; allowed: segment, chat"):
            ImageInferer()(picture, network, "vessels", mode="talk")
        with pytest.raises(PromptError, match="replies has 0 entries for 1 prompts"):
            ImageInferer()(picture, network, "vessels", mode="chat", replies=[])


def test_a_network_in_training_stays_so_and_can_go_on(network: Sa2VA, picture: np.ndarray) -> None:
    network.train()
    ImageInferer()(picture, network, "vessels")
    assert network.training
    logits = network(torch.rand(1, 3, 32, 32), text="Segment the vessels.")
    logits.mean().backward()
    gradient = network.text_hidden_fcs.state_dict(keep_vars=True)
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in gradient.values())
    network.zero_grad(set_to_none=True)


def test_autocast_to_bfloat16_gives_nearly_the_same(network: Sa2VA, picture: np.ndarray) -> None:
    exact = ImageInferer()(picture, network, PROMPTS)
    rounded = ImageInferer(amp=True)(picture, network, PROMPTS)
    assert rounded.presence.dtype == torch.float32
    assert not torch.equal(rounded.presence, exact.presence)
    torch.testing.assert_close(rounded.presence, exact.presence, atol=0.05, rtol=0)
    assert (rounded.masks ^ exact.masks).float().mean() < 0.1


def test_one_pixel(network: Sa2VA) -> None:
    assert ImageInferer()(np.zeros((1, 1, 3), np.uint8), network, "vessels").masks.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("prompts", "phrases", "message"),
    [
        ([], None, "there is no prompt"),
        ({"1": ["vessels"]}, None, "prompts is a dictionary"),
        ("", None, "the prompt is empty"),
        (["vessels", "  \n"], None, "the prompt is empty"),
        (["vessels", 3], None, "the prompt is empty"),
        ("x" * 10_000, None, "10000 characters; at most 2000"),
        ("Segment the vessels.", [["a"], ["b"]], "2 entries for 1 prompts"),
        (", ".join(f"v{i}" for i in range(65)), None, "names 65 structures; at most 64"),
        ("Segment the vessels.", [["血" * 3000]], "the language model takes 8192"),
        ("What can you tell me about where the blood vessels run?", None, "name it, e.g. 'Segment the vessels.'"),
    ],
)
def test_prompts_that_cant_be_used(
    network: Sa2VA, picture: np.ndarray, prompts: Any, phrases: Any, message: str
) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        ImageInferer()(picture, network, prompts, phrases)
    assert "\n" not in str(caught.value)


def test_pictures_that_cant_be_used(network: Sa2VA) -> None:
    for bad in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), torch.full((3, 4, 4), 300.0), np.zeros((0, 4, 3))):
        with pytest.raises(DataError):
            ImageInferer()(bad, network, "vessels")


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="max_prompts is 0"):
        ImageInferer(max_prompts=0)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        ImageInferer(max_new_tokens=0)
    for threshold in (1.5, "tuned"):
        with pytest.raises(ConfigError, match=r"presence_threshold is .*; give 0 to 1, null for none, or 'stored'"):
            ImageInferer(presence_threshold=threshold)


def test_prompts_are_trimmed() -> None:
    assert check_prompts(" vessels \n") == ["vessels"]
    assert check_prompts(("a", "b ")) == ["a", "b"]
