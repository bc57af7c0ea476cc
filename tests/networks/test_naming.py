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

"""The language model reads names out of free sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import PromptError
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.networks import naming
from monai_sa2va.networks.naming import answer_ids, find_objects, read_phrases, spans
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.chat import IGNORED_LABEL, Control
from monai_sa2va.transforms.sentences import answer_segments, parse_phrases

SENTENCES = {
    "What can you tell me about where the blood vessels run?": ["blood vessels"],
    "What do the vessels and the disc look like?": ["vessels", "disc"],
    "请分割血管": ["血管"],
    "左肾和右肾在哪里": ["左肾", "右肾"],
    "แบ่งส่วนหลอดเลือด": ["หลอดเลือด"],
    "시신경 유두를 표시해 주세요": ["시신경 유두"],
}


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 32, 40), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


@pytest.fixture(scope="module")
def trained(picture: torch.Tensor) -> Sa2VA:
    """A network whose language model has learnt the sentences by heart."""
    network = Sa2VA("tiny", seed=0)
    with torch.no_grad():
        tokens = network.mllm.encode_image(network.processor.image(picture)[Keys.PIXEL_VALUES])
    samples = [
        network.processor.conversation([(question, answer_segments(names))], 1) for question, names in SENTENCES.items()
    ]
    ids = pad_sequence([sample[Keys.INPUT_IDS] for sample in samples], batch_first=True)
    labels = pad_sequence([sample[Keys.LABELS] for sample in samples], batch_first=True, padding_value=IGNORED_LABEL)
    optimizer = torch.optim.AdamW(network.language_model.parameters(), lr=2e-3)
    for _ in range(40):
        # padding stands behind, where a causal model doesn't see it
        states = network.mllm.hidden_states(network.mllm.embed(ids, tokens.repeat(len(ids), 1)), None)
        logits = network.mllm.vocabulary_logits(states[:, :-1])
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def tokens(trained: Sa2VA, picture: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return trained.mllm.encode_image(trained.processor.image(picture)[Keys.PIXEL_VALUES])


@pytest.mark.parametrize("sentence", SENTENCES)
@torch.no_grad()
def test_names_are_read(trained: Sa2VA, tokens: torch.Tensor, sentence: str) -> None:
    assert parse_phrases(sentence) is None
    assert read_phrases(trained, tokens, sentence) == SENTENCES[sentence]


def test_the_inferer_asks_the_model_for_names(trained: Sa2VA, picture: torch.Tensor) -> None:
    result = ImageInferer()(picture, trained, [*list(SENTENCES)[:2], "Segment the lesion."])
    assert result.names == ["blood vessels", "vessels", "disc", "lesion"]
    assert result.prompt_indices == [0, 1, 1, 2]


@pytest.mark.parametrize("sentence", [text for text, names in SENTENCES.items() if len(names) == 1])
def test_both_doors_read_the_same_names_and_draw_the_same_mask(
    trained: Sa2VA, picture: torch.Tensor, sentence: str
) -> None:
    with torch.no_grad():
        logits = trained(picture[None] / 255, text=sentence)[0]
    result = ImageInferer()(picture, trained, sentence)
    assert 0 < result.masks.sum() < result.masks.numel()
    assert torch.equal(result.masks, logits > 0)
    # what a door that reads no names would draw
    whole = ImageInferer()(picture, trained, sentence, [[sentence]])
    assert not torch.equal(whole.masks, result.masks)


def test_no_door_segments_what_is_shut_out(trained: Sa2VA, picture: torch.Tensor) -> None:
    for sentence in ("Do not segment the vessels.", "Segment everything except the vessels."):
        with pytest.raises(PromptError, match="what not to segment"):
            trained(picture[None] / 255, text=sentence)
        with pytest.raises(PromptError, match="what not to segment"):
            ImageInferer()(picture, trained, sentence)


def test_names_are_found_in_training_mode_and_leave_it_on(trained: Sa2VA, picture: torch.Tensor) -> None:
    sentence = next(iter(SENTENCES))
    encoding = trained.mllm.encode_image(trained.processor.image(picture)[Keys.PIXEL_VALUES])
    trained.train()
    try:
        assert find_objects(trained, encoding, sentence) == SENTENCES[sentence]
        assert trained.training
        logits = trained(picture[None] / 255, text=sentence)
    finally:
        trained.eval()
    assert logits.requires_grad


@torch.no_grad()
def test_a_checkpoint_without_names_gets_the_sentence(trained: Sa2VA, tokens: torch.Tensor) -> None:
    config = trained.config
    trained.config = replace(config, answer_form="plain")
    try:
        assert find_objects(trained, tokens, " 请分割血管 ") == ["请分割血管"]
    finally:
        trained.config = config


@torch.no_grad()
def test_reading_is_bounded(trained: Sa2VA, tokens: torch.Tensor) -> None:
    sentence = "What do the vessels and the disc look like?"
    assert read_phrases(trained, tokens, sentence, max_objects=1) == ["vessels"]


@torch.no_grad()
def test_only_words_of_the_sentence_are_read(trained: Sa2VA, tokens: torch.Tensor) -> None:
    # what the model learnt by heart is not there to be chosen
    with pytest.raises(PromptError, match="the model finds no structure named"):
        read_phrases(trained, tokens, "What can you tell me about where the bowels run?")
    for text in ("???", "\u00bf \u2014 !", "请分割大脑"):
        with pytest.raises(PromptError, match="the model finds no structure named"):
            read_phrases(trained, tokens, text)


def test_spans_are_runs_of_words_that_punctuation_parts() -> None:
    assert spans("The optic disc, please!", 3) == [
        *("The", "the", "The optic", "the optic", "The optic disc", "the optic disc"),
        *("optic", "optic disc", "disc", "please"),
    ]
    assert spans("l'aorte  descendante") == ["l'aorte", "l'aorte descendante", "descendante"]
    assert "视盘" in spans("请问 视盘 在哪里?")
    assert spans("... !?") == []


def test_spans_of_scripts_without_spaces_are_runs_of_characters() -> None:
    assert spans("分割血管。", max_characters=2) == ["分割血管", "分", "分割", "割", "割血", "血", "血管", "管"]
    # another script among them is one character; punctuation parts
    assert spans("查CT、肝", max_characters=2) == ["查CT", "查ct", "肝", "查", "CT", "ct"]
    # a mark belongs to its letter, in these scripts and in others
    assert spans("ดี", max_characters=1) == ["ดี"]
    assert spans("रक्त वाहिका", max_characters=1) == ["रक्त", "रक्त वाहिका", "वाहिका"]
    # Korean names are parted from the particles behind them, across spaces
    assert "시신경 유두" in spans("시신경 유두를 표시해 주세요")
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    assert len(spans(text)) == 2000 * 16 - 120 + 1


@torch.no_grad()
def test_cached_reading_is_the_same_as_reading_anew(trained: Sa2VA, tokens: torch.Tensor) -> None:
    """Greedy decoding without a cache, written out, agrees token by token with what was read."""
    question, names = next(iter(SENTENCES.items()))
    ids = trained.processor.conversation([(question, answer_segments(names))], 1)[Keys.INPUT_IDS]
    states = trained.mllm.hidden_states(trained.mllm.embed(ids[None], tokens), None)
    said = trained.mllm.vocabulary_logits(states[0, :-1]).argmax(-1)
    opens, closes = trained.tokenizer.convert_tokens_to_ids(["<p>", "</p>"])
    start, end = ids.tolist().index(opens), ids.tolist().index(closes)
    assert said[start:end].tolist() == ids[start + 1 : end + 1].tolist()
    assert trained.tokenizer.decode(said[start : end - 1]) == read_phrases(trained, tokens, question)[0]


@torch.no_grad()
def test_what_a_taken_name_overlaps_is_no_other_structure(
    trained: Sa2VA, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[list[str]] = []
    original = naming._Reader.choose

    def choose(self: naming._Reader, options: Mapping[str, tuple[int, ...]]) -> str | None:
        offered.append(list(options))
        return original(self, options)

    monkeypatch.setattr(naming._Reader, "choose", choose)
    assert read_phrases(trained, tokens, "左肾和右肾在哪里") == ["左肾", "右肾"]
    # both hold the same character, at places of their own
    assert {"肾", "右肾", "和"} < set(offered[1])
    assert not {"左", "左肾", "左肾和", "肾和"} & set(offered[1])


@torch.no_grad()
def test_a_model_that_names_nothing_is_an_error_with_advice(picture: torch.Tensor) -> None:
    network = Sa2VA("tiny", seed=0).eval()
    tokens = network.mllm.encode_image(network.processor.image(picture)[Keys.PIXEL_VALUES])
    sentence = "What can you tell me about " + "this and that " * 20 + "?"
    with pytest.raises(PromptError, match=r"in 'What can you .*\.\.\.'; name it, e.g. 'Segment the vessels.'"):
        read_phrases(network, tokens, sentence)


@torch.no_grad()
def test_the_likeliest_name_is_found_where_greedy_steps_miss_it(
    picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against all names scored one by one, on networks that have no favourites."""
    monkeypatch.setattr(naming, "_MIN_LIKELIHOOD", 1e-300)
    sentence, begun = "Ask about a nodule, the cyst or an old scar here.", "Sure, "
    for seed in range(3):
        network = Sa2VA("tiny", seed=seed).eval()
        tokens = network.mllm.encode_image(network.processor.image(picture)[Keys.PIXEL_VALUES])
        scores = {}
        for name in spans(sentence):
            answer = [begun, Control("<p>"), name, Control("</p>")]
            ids = network.processor.conversation([(sentence, answer)], 1)[Keys.INPUT_IDS][:-1]
            states = network.mllm.hidden_states(network.mllm.embed(ids[None], tokens), None)
            logits = network.mllm.vocabulary_logits(states[0, :-1]).log_softmax(-1)
            told = logits[range(len(ids) - 1), ids[1:]]
            scores[name] = float(told[-len(name.encode()) - 1 :].sum())
        best = max(scores, key=lambda name: scores[name])
        assert read_phrases(network, tokens, sentence, max_objects=1) == [best]


def test_an_answer_has_one_seg_a_name(trained: Sa2VA) -> None:
    ids, answer = answer_ids(trained, "Which ones?", ["disc", "cup"], 1)
    assert answer == "Sure, <p>disc</p> [SEG] and <p>cup</p> [SEG]."
    assert int((ids == trained.processor.seg_token_id).sum()) == 2
    with pytest.raises(PromptError, match=r"a prompt of 11 characters makes \d+ tokens .* takes 8192: shorten it"):
        answer_ids(trained, "Which ones?", ["血" * 3000], 1)
