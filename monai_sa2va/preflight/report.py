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

"""What a check says, and running many of them so that none stops the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from monai_sa2va.enums import StrEnum
from monai_sa2va.preflight.one_line import causes, explain
from monai_sa2va.preflight.settings import Settings

__all__ = ["Check", "Finding", "Remark", "Status", "reason", "run_checks"]

_LONGEST = 400


class Status(StrEnum):
    """How a check ended: a warning lets a run go on, a failure stops it."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


Remark = tuple[Status, str]
"""What a check yields: how it ended, and one line that says what was found and what to do."""

Check = Callable[[Settings], Iterable[Remark]]
"""A check: yields nothing where the configuration has nothing that it could look at."""


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        status: pass, warn or fail.
        check: name of the check.
        message: what was found and, unless it passed, what to do.
    """

    status: Status
    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.status.value}  {self.check}: {self.message}"


def run_checks(checks: Mapping[str, Check], settings: Settings) -> list[Finding]:
    """Run checks in their order; what one raises is its failure, and the others still run.

    Args:
        checks: name -> check.
        settings: the configuration to look at.
    """
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            for status, message in check(settings):
                findings.append(Finding(status, name, _one_line(message)))
        # a configuration runs anyone's code while it is built, which raises nearly anything
        except Exception as error:
            findings.append(Finding(Status.FAIL, name, reason(error)))
    return findings


def reason(error: BaseException) -> str:
    """One line for an error: of what lies under MONAI's wrapping this package's own, else the innermost."""
    innermost = causes(error)[-1]
    return _one_line(explain(error) or str(innermost)) or type(innermost).__name__


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
