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

"""What each official checkpoint needs, from its geometry alone.

``python benchmarks/checkpoint_needs.py`` builds every official preset on the meta device, where weights take no memory,
and prints the table of docs/reference/official-checkpoints.md: parameters, memory of the weights in bfloat16 and with
the linear layers in 8 bits, and the keys and values that the language model keeps while it answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from monai_sa2va.checkpoints.pretrained import build_without_memory
from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.networks.presets import PRESETS
from monai_sa2va.networks.sa2va import Sa2VA

__all__ = ["OWN", "Needs", "cache_bytes", "markdown", "measure"]

OWN = ("tiny", "small")
"""Presets that no official checkpoint has."""

_TOKENS = 4096


class Needs(NamedTuple):
    """What one checkpoint needs.

    Attributes:
        name: of the preset.
        parameters: number of all parameters, and of those of SAM2 and of the language model with its head.
        bf16: bytes of all weights in bfloat16.
        int8: bytes where the weights of linear layers have 8 bits and a bfloat16 scale a row, all others bfloat16.
        cache: bytes of keys and values of 4096 tokens in bfloat16: a picture of 13 tiles and some 750 tokens more.
    """

    name: str
    parameters: tuple[int, int, int]
    bf16: int
    int8: int
    cache: int


def measure(config: Sa2VAConfig) -> Needs:
    """Count without any weights.

    The tokenizer made in code stands for the checkpoint's own, which has no parameters.
    """
    network = build_without_memory(Sa2VA, config)
    names = dict(network.named_parameters())
    total = sum(value.numel() for value in names.values())
    sam2 = sum(value.numel() for key, value in names.items() if key.startswith("grounding_encoder."))
    text = ("mllm.model.language_model.", "mllm.lm_head.")
    language = sum(value.numel() for key, value in names.items() if key.startswith(text))
    linear = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    quantized = sum(weight.numel() for weight in linear)
    rows = sum(len(weight) for weight in linear)
    int8 = 2 * (total - quantized) + quantized + 2 * rows
    return Needs(config.name, (total, sam2, language), 2 * total, int8, cache_bytes(config, _TOKENS))


def cache_bytes(config: Sa2VAConfig, tokens: int) -> int:
    """Bytes of keys and values in bfloat16 of as many tokens."""
    text = config.text
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * text.num_key_value_heads * width * tokens * torch.bfloat16.itemsize


def markdown(rows: Sequence[Needs]) -> str:
    """The table as Markdown; a GB is 10^9 bytes, an M 10^6 parameters."""
    lines = [
        "| Preset | Parameters | of them language model | SAM2 | bf16 weights | int8 weights | keys and values |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        total, sam2, language = (f"{number / 1e6:,.0f} M" for number in row.parameters)
        sizes = [f"{size / 1e9:.2f} GB" for size in (row.bf16, row.int8, row.cache)]
        lines.append(f"| `{row.name}` | {total} | {language} | {sam2} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    official = [name for name in PRESETS if name not in OWN]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(official)}; all by default")
    names = parser.parse_args(arguments).presets or official
    odd = [name for name in names if name not in official]
    if odd:
        parser.error(f"there is no official preset {odd[0]!r}; known: {', '.join(official)}")
    print(markdown([measure(PRESETS[name]) for name in names]))


if __name__ == "__main__":
    main()
