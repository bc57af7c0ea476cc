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

"""Which series are meant, by their DICOM attributes: ``Modality=CT,BodyPartExamined=CHEST*``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from monai_sa2va.errors import ConfigError

if TYPE_CHECKING:
    from monai_sa2va.dicom.series import DicomSeries

__all__ = ["Attributes", "Where"]


class Attributes:
    """What the header of a series' first instance says, read when it is asked for.

    Args:
        series: whose.
    """

    def __init__(self, series: DicomSeries) -> None:
        self._known = {"Modality": series.modality, "SeriesDescription": series.description}
        self._file = series.frames[0].file

    def values(self, keyword: str) -> list[str]:
        """The values of an attribute as text; several joined come last; none where it is absent."""
        from monai_sa2va.dicom.values import texts

        known = self._known.get(keyword)
        values = list(texts(self._header, keyword) if known is None else (known,))
        return values if len(values) < 2 else [*values, "\\".join(values)]

    @cached_property
    def _header(self) -> Any:
        from monai_sa2va.dicom.files import open_file
        from monai_sa2va.dicom.headers import dataset_of

        with open_file(self._file) as stream:
            return dataset_of(self._file, stream, None)


@dataclass(frozen=True)
class Where:
    """Conditions that all have to hold; of one keyword's values any may.

    Attributes:
        conditions: DICOM keyword -> patterns with ``*`` and ``?``; case makes no difference.
    """

    conditions: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, texts: str | Iterable[str], argument: str = "where") -> Where:
        """What ``"Modality=CT,BodyPartExamined=CHEST*"`` says; ``Modality=CT,Modality=MR`` takes both.

        Args:
            texts: one such text or several.
            argument: what messages call it.

        Raises:
            ConfigError: when it has another form, or a keyword is none of DICOM's.
        """
        conditions: dict[str, tuple[str, ...]] = {}
        for part in ",".join([texts] if isinstance(texts, str) else texts).split(","):
            keyword, sign, pattern = (piece.strip() for piece in part.partition("="))
            if not sign or not keyword or not pattern:
                raise ConfigError(f"{argument} has {part!r}; give KEYWORD=VALUE, such as Modality=CT")
            conditions[keyword] = (*conditions.get(keyword, ()), pattern)
        return cls.of(conditions, argument)

    @classmethod
    def of(cls, conditions: Mapping[str, tuple[str, ...]], argument: str = "where") -> Where:
        """As :meth:`parse`, of patterns by keyword.

        Raises:
            ConfigError: when a keyword is none of DICOM's.
        """
        return cls({_keyword(keyword, argument): patterns for keyword, patterns in conditions.items()})

    def missed(self, attributes: Attributes | None) -> str | None:
        """The first keyword whose condition doesn't hold; ``None`` where all do.

        Args:
            attributes: of the series; ``None`` for what is no DICOM and has none.
        """
        for keyword, patterns in self.conditions.items():
            values = [] if attributes is None else attributes.values(keyword)
            if not any(fnmatchcase(v.casefold(), pattern.casefold()) for v in values for pattern in patterns):
                return keyword
        return None


def _keyword(keyword: str, argument: str) -> str:
    try:
        from pydicom.datadict import tag_for_keyword
    except ImportError as error:
        raise ConfigError(f"{argument} looks at DICOM, which needs pydicom; pip install monai-sa2va[dicom]") from error
    if tag_for_keyword(keyword) is None:
        import difflib

        from pydicom.datadict import DicomDictionary

        near = difflib.get_close_matches(keyword, (entry[4] for entry in DicomDictionary.values()), n=1)
        advice = f"did you mean {near[0]}?" if near else "give one such as Modality"
        raise ConfigError(f"{argument} has {keyword!r}, which is no keyword of DICOM; {advice}")
    return keyword
