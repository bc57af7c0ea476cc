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
"""The chat template that lies in a checkpoint's folder, matched with the ones that are known by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from monai_sa2va.data.tokenizer import QWEN_IMAGE_TOKENS, byte_tokenizer
from monai_sa2va.errors import CheckpointError
from monai_sa2va.transforms.chat import CHAT_TEMPLATES

__all__ = ["shipped_template"]

_TEXT = "Where is it?"


def shipped_template(folder: Path) -> str | None:
    """Name of the chat template that a folder's own file is; a picture comes before the text, as in the reference.

    Args:
        folder: of the tokenizer.

    Returns:
        A name in ``CHAT_TEMPLATES``, ``None`` where the folder has no template.

    Raises:
        CheckpointError: when the file can't be read, or asks otherwise than any template that is known.
    """
    found = _find(folder)
    if found is None:
        return None
    name, template = found
    content = [{"type": "image"}, {"type": "text", "text": _TEXT}]
    try:
        # rendered in transformers' sandbox
        asked = byte_tokenizer("qwen3_vl").apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} can't be rendered: {' '.join(str(error).split())}") from error
    opens, closes, fills = QWEN_IMAGE_TOKENS
    for known, chat in CHAT_TEMPLATES.items():
        if asked == f"{chat.opening}{chat.before}{opens}{fills}{closes}{_TEXT}{chat.between}":
            return known
    raise CheckpointError(
        f"{name} is none of the chat templates that this version knows ({', '.join(CHAT_TEMPLATES)}); "
        "put the checkpoint's original one there"
    )


def _find(folder: Path) -> tuple[str, str] | None:
    """File name and text of the template, in transformers' order."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            return own.name, own.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{own.name} can't be read: {error}") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            template = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{name} can't be read: it is no JSON object") from error
        if template:
            return name, _default(template)
    return None


def _default(template: Any) -> str:
    """The template, or of several with names the one called default."""
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        return str(named.get("default") or "")
    return str(template)
