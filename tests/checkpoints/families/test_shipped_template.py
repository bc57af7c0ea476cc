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

import json
from pathlib import Path

import pytest

from monai_sa2va.checkpoints.families.shipped_template import shipped_template
from monai_sa2va.errors import CheckpointError

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + PLAIN


@pytest.mark.parametrize(("template", "name"), [(PLAIN, "qwen_chat"), (SYSTEM, "qwen_system_chat")])
def test_templates_by_what_they_ask(tmp_path: Path, template: str, name: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    assert shipped_template(tmp_path) == name


def test_where_it_may_lie(tmp_path: Path) -> None:
    assert shipped_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    assert shipped_template(tmp_path) is None
    config.write_text(
        json.dumps({"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": PLAIN}]})
    )
    assert shipped_template(tmp_path) == "qwen_chat"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": SYSTEM}))
    assert shipped_template(tmp_path) == "qwen_system_chat"
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    assert shipped_template(tmp_path) == "qwen_chat"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("chat_template.jinja", "{{ messages[0]['role'] }}", r"chat_template\.jinja is none of the chat templates"),
        ("chat_template.jinja", "{% for %}", r"chat_template\.jinja can't be rendered"),
        ("chat_template.json", "[]", r"chat_template\.json can't be read: it is no JSON object"),
        ("chat_template.jinja", "{{ 1 / 0 }}", r"chat_template\.jinja can't be rendered: division by zero"),
        ("tokenizer_config.json", '{"chat_template": ["a"]}', r"tokenizer_config\.json is none of the chat templates"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json can't be read"),
    ],
)
def test_refusals(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=message) as error:
        shipped_template(tmp_path)
    assert "\n" not in str(error.value)


def test_the_references_own(oracle_dir: Path) -> None:
    assert shipped_template(oracle_dir / "qwen3vl" / "tokenizer") == "qwen_chat"
