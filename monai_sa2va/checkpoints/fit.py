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

"""What of a checkpoint's keys is missing, too many, or of another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_sa2va.errors import CheckpointError

__all__ = ["check_fit", "listed"]

_SHOWN = 3


def check_fit(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], name: str, advice: str
) -> None:
    """Refuse weights that aren't exactly what a network needs.

    Args:
        expected: shapes by key, as the network has them.
        found: shapes by key, as the checkpoint has them.
        name: of the checkpoint.
        advice: what to do, a sentence.

    Raises:
        CheckpointError: listing the keys that are missing, unexpected or of another shape.
    """
    faults = [
        listed("missing", [key for key in expected if key not in found]),
        listed("unexpected", [key for key in found if key not in expected]),
        listed(
            "of another shape",
            [
                f"{key} {tuple(found[key])} instead of {tuple(shape)}"
                for key, shape in expected.items()
                if key in found and tuple(found[key]) != tuple(shape)
            ],
        ),
    ]
    if any(faults):
        raise CheckpointError(f"{name} doesn't fit this network: {'; '.join(filter(None, faults))}. {advice}")


def listed(what: str, keys: Sequence[str]) -> str:
    """How an error names keys: their number and the first three; empty where there is none."""
    shown = ", ".join(sorted(keys)[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
    return f"{len(keys)} keys {what} ({shown})" if keys else ""
