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

"""Writes docs/reference/python.md from the code: ``python docs/generate_python.py``."""

from __future__ import annotations

import enum
import inspect
import re
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import monai_sa2va

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parent / "reference" / "python.md"

MODULES: dict[str, tuple[str, ...]] = {
    "Use": (
        "predictor",
        "segmentation",
        "inferers.image",
        "inferers.first_frames",
        "inferers.stack",
        "inferers.visual_prompts",
        "bundles",
    ),
    "Network": (
        "config",
        "qwen_config",
        "networks.presets",
        "networks.sa2va",
        "networks.grounding",
        "networks.projector",
        "networks.mllm",
        "networks.chat",
        "networks.prompts",
        "networks.sam2",
        "networks.memory",
        "networks.interaction",
        "networks.parts",
    ),
    "Images and labels": (
        "transforms.planes",
        "transforms.stacks",
        "transforms.intensity",
        "transforms.rgb",
        "transforms.augment",
        "transforms.labels",
        "transforms.postprocess",
    ),
    "Sentences and network inputs": (
        "transforms.prompts",
        "transforms.sentences",
        "transforms.processor",
        "transforms.tiles",
        "transforms.patches",
        "transforms.grounding_image",
    ),
    "Data": (
        "data.datalist",
        "data.make_datalist",
        "data.slices",
        "data.negatives",
        "data.phantoms",
        "data.dataloader",
        "data.collate",
    ),
    "Losses and metrics": (
        "losses.sa2va_loss",
        "losses.point_sampling",
        "metrics.functional",
        "metrics.segmentation",
        "metrics.handler",
        "metrics.presence",
        "metrics.surface",
        "metrics.bootstrap",
        "metrics.objects",
        "metrics.summary",
    ),
    "Training": ("engines.trainer", "engines.evaluator", "engines.schedules", "engines.handlers", "engines.presence"),
}
"""Headings of the page, and the modules below each."""

_HEAD = """# Python

<!-- Made by `python docs/generate_python.py`; don't edit it here. -->

Names, signatures and the first line of each docstring; `help(name)` shows the rest: shapes, units, errors. Array
transforms `X` have dictionary transforms `Xd`, which MONAI's other spellings `XD` and `XDict` name as well.

`import monai_sa2va` is free of torch. It offers, on first use:
"""

_WIDTH = 100
_LONGEST_DEFAULT = 48


def render() -> str:
    """The page: the short names, then a section a module."""
    short = []
    for name, target in sorted(monai_sa2va._EXPORTS.items()):
        module, _, other = target.partition(":")
        short.append(f"- `monai_sa2va.{name}`: `{module}.{other or name}`")
    parts = [_HEAD, "\n".join(short)]
    for heading, modules in MODULES.items():
        parts.append(f"## {heading}")
        parts += [_module(name) for name in modules]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _module(name: str) -> str:
    module = import_module(f"monai_sa2va.{name}")
    entries, constants = [], []
    seen: set[int] = set()
    for public in module.__all__:
        value = getattr(module, public)
        if not callable(value):
            constants.append(f"`{public}`")
        elif id(value) not in seen:
            seen.add(id(value))
            entries.append(_entry(value))
    if constants:
        entries.append("Constants: " + ", ".join(constants))
    return "\n\n".join([f"### monai_sa2va.{name}", _first_line(module), *entries])


def _entry(value: Any) -> str:
    """A callable's signature and first line; of a class also its own public methods."""
    lines = [f"```python\n{_signature(value, value.__name__)}\n```\n\n{_first_line(value)}"]
    if inspect.isclass(value):
        for name, member in vars(value).items():
            if name.startswith("_") or not isinstance(member, (types.FunctionType, classmethod, staticmethod)):
                continue
            bound = getattr(value, name)
            lines.append(f"```python\n{_signature(bound, f'{value.__name__}.{name}')}\n```\n\n{_first_line(bound)}")
    return "\n\n".join(lines)


def _signature(value: Any, name: str) -> str:
    if getattr(value, "_is_protocol", False):
        return name
    parts: list[str] = []
    keyword_only = False
    result = ""
    for parameter in inspect.signature(value).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        keyword_only = keyword_only or parameter.kind is parameter.VAR_POSITIONAL
        stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        text = stars.get(parameter.kind, "") + parameter.name
        annotated = parameter.annotation is not parameter.empty
        if annotated:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += (" = " if annotated else "=") + _default(parameter.default)
        parts.append(text)
    if not inspect.isclass(value):
        returns = inspect.signature(value).return_annotation
        result = "" if returns is inspect.Signature.empty else f" -> {_annotation(returns)}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _annotation(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    # a NamedTuple keeps its annotations in this form
    return str(getattr(annotation, "__forward_arg__", None) or inspect.formatannotation(annotation))


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return repr(str(value.value))
    if callable(value):
        return str(getattr(value, "__name__", "..."))
    if isinstance(value, (tuple, list)):
        items = [_default(item) for item in value]
        text = f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    else:
        text = repr(value)
    # long tables and objects whose repr holds an address would make the page change by itself
    return text if len(text) <= _LONGEST_DEFAULT and " object at " not in text else "..."


def _first_line(value: Any) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    # Sphinx's markup as Markdown's
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
