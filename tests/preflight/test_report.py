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

from collections.abc import Iterator

from monai.bundle import ConfigParser

from monai_sa2va.errors import DataError
from monai_sa2va.preflight.report import Finding, Remark, Status, reason, run_checks
from monai_sa2va.preflight.settings import Settings


def breaks(settings: Settings) -> Iterator[Remark]:
    yield Status.PASS, "the first half"
    raise RuntimeError("MONAI's") from DataError("x.png is\n torn")


def reads(settings: Settings) -> Iterator[Remark]:
    yield Status.WARN, f"{settings.value('a')} and {settings.value('b', 3)}"


def test_a_check_that_breaks_fails_and_the_others_run():
    findings = run_checks({"one": breaks, "two": reads}, Settings(ConfigParser({"a": "$1 + 1"})))
    assert list(map(str, findings)) == [
        "pass  one: the first half",
        "fail  one: [DATA] x.png is torn",
        "warn  two: 2 and 3",
    ]
    assert findings[2] == Finding(Status.WARN, "two", "2 and 3")


def test_reasons_are_one_line_and_short():
    assert reason(KeyError()) == "KeyError"
    assert reason(ValueError("a\n  b")) == "a b"
    assert len(reason(ValueError("a" * 9999))) == 400
