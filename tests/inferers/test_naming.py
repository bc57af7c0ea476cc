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

import pytest
import torch
import torch.nn.functional as F

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import PromptError
from monai_sa2va.inferers import naming
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.naming import read_phrases, spans
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.chat import Control
from monai_sa2va.transforms.sentences import answer_segments, parse_phrases

SENTENCES = {
    "What can you tell me about where the blood vessels run?": ["blood vessels"],
    "What do the vessels and the disc look like?": ["vessels", "disc"],
}


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 32, 40), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


@pytest.fixture(scope="module")
def trained(picture: torch.Tensor) -> Sa2VA:
    """A network whose language model has learnt the two sentences by heart."""
    network = Sa2VA("tiny", seed=0)
    with torch.no_grad():
        tokens = network.mllm.encode_image(network.processor.image(picture)[Keys.PIXEL_VALUES])
    samples = [
        network.processor.conversation([(question, answer_segments(names))], 1) for question, names in SENTENCES.items()
    ]
    optimizer = torch.optim.AdamW(network.mllm.parameters(), lr=2e-3)
    for _ in range(40):
        losses = []
        for sample in samples:
            states = network.mllm.hidden_states(network.mllm.embed(sample[Keys.INPUT_IDS][None], tokens), None)
            logits = network.mllm.vocabulary_logits(states[0, :-1])
            losses.append(F.cross_entropy(logits, sample[Keys.LABELS][1:]))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
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
    result = ImageInferer()(picture, trained, [*SENTENCES, "Segment the lesion."])
    assert result.names == ["blood vessels", "vessels", "disc", "lesion"]
    assert result.prompt_indices == [0, 1, 1, 2]


@torch.no_grad()
def test_reading_is_bounded(trained: Sa2VA, tokens: torch.Tensor) -> None:
    sentence = "What do the vessels and the disc look like?"
    assert read_phrases(trained, tokens, sentence, max_objects=1) == ["vessels"]


@torch.no_grad()
def test_only_words_of_the_sentence_are_read(trained: Sa2VA, tokens: torch.Tensor) -> None:
    # what the model learnt by heart is not there to be chosen
    with pytest.raises(PromptError, match="the model finds no structure named"):
        read_phrases(trained, tokens, "What can you tell me about where the bowels run?")
    for text in ("???", "\u00bf \u2014 !"):
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
