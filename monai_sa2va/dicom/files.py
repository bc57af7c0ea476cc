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
"""Where DICOM files may be: folders of any depth, zips, DICOMDIRs; a zip is read in memory and never unpacked."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from monai_sa2va.dicom.findings import DicomError, Finding, FindingCode, Severity
from monai_sa2va.dicom.series import DicomFile
from monai_sa2va.dicom.streams import LargeMember
from monai_sa2va.dicom.values import items, shown_name, texts
from monai_sa2va.errors import DataError

__all__ = ["file_label", "list_files", "not_dicom", "open_file"]

_LARGEST_MEMBER = 4 << 30
_IN_MEMORY = 64 << 20
"""Members larger than this are unfolded as they are read: a zip of a few kilobytes can hold gigabytes of zeros."""
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"


def file_label(file: DicomFile) -> str:
    """A file's own name, in a zip likewise: folders may name patients. What can't be shown becomes ``?``."""
    return shown_name(file.path.name if file.member is None else PurePosixPath(file.member).name)


def not_dicom(file: DicomFile, reason: str) -> DicomError:
    """A file that is left out, as it can't be read as DICOM."""
    return DicomError(Finding(FindingCode.NOT_DICOM, Severity.SKIPPED, f"{file_label(file)} {reason}"))


def list_files(paths: Sequence[str | os.PathLike[str]]) -> Iterator[DicomFile | DicomError]:
    """Every file under the paths, sorted, each once; what a zip or a DICOMDIR names in its place.

    Args:
        paths: folders, files, zips, and DICOMDIRs, whose files are those that they name. A DICOMDIR within a folder
            adds nothing to that folder.

    Yields:
        Files; in the place of one that can't be had, why.

    Raises:
        DataError: when a path is missing.
    """
    seen: set[DicomFile] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"there is no file or folder {path.name!r}; check the path")
        for found in _walk(path) if path.is_dir() else _open_up(path, given=True):
            if isinstance(found, DicomError):
                yield found
            elif found not in seen:
                seen.add(found)
                yield found


def open_file(file: DicomFile) -> BinaryIO:
    """The bytes of a file, to be read from any place.

    Raises:
        DicomError: NOT_DICOM when they can't be had.
    """
    try:
        if file.member is None:
            return file.path.open("rb")
        archive = _archive(file.path, file.path.stat().st_mtime_ns)
        size = archive.getinfo(file.member).file_size
        if size > _LARGEST_MEMBER:
            raise not_dicom(file, f"would take {size >> 30} GB out of its zip; unpack it and name the folder")
        if size > _IN_MEMORY:
            damaged = not_dicom(file, "is damaged in its zip; unpack it and name the folder")
            return cast(BinaryIO, LargeMember(archive.open(file.member), size, damaged))
        # bounded by the size that was just read, whatever the packed bytes unfold to
        return io.BytesIO(archive.read(file.member))
    except DicomError:
        raise
    except OSError as error:
        raise not_dicom(file, f"can't be read: {error.strerror or type(error).__name__}") from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, KeyError, EOFError, ValueError) as error:
        reason = "is encrypted" if isinstance(error, RuntimeError) else "is damaged in its zip"
        raise not_dicom(file, f"{reason}; unpack it and name the folder") from None
    except Exception as error:
        # each packing has its own error, as zlib.error and lzma.LZMAError
        raise not_dicom(file, f"can't be read: {type(error).__name__}") from None


def _walk(folder: Path) -> Iterator[DicomFile | DicomError]:
    closed: list[OSError] = []
    entered = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _leads_on(Path(root, name), entered)]
        for name in sorted(names):
            yield from _open_up(Path(root, name), given=False)
    for _ in closed:
        reason = "a folder can't be read: Permission denied"
        yield DicomError(Finding(FindingCode.NOT_DICOM, Severity.SKIPPED, reason))


def _leads_on(folder: Path, entered: set[str]) -> bool:
    """Whether a folder, or a link to one, was not entered before; links up the tree would never end."""
    real = os.path.realpath(folder)
    if real in entered or (folder.is_symlink() and Path(os.path.realpath(folder.parent)).is_relative_to(real)):
        return False
    entered.add(real)
    return True


def _open_up(path: Path, given: bool) -> Iterator[DicomFile | DicomError]:
    file = DicomFile(path)
    try:
        # a pipe would wait for ever
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        regular = False
    if not regular:
        yield not_dicom(file, "is no plain file, or leads nowhere")
    elif path.suffix.lower() == ".zip":
        yield from _members(path)
    elif given and _is_dicomdir(path):
        yield from _named_files(path)
    else:
        yield file


def _members(path: Path) -> Iterator[DicomFile | DicomError]:
    try:
        names = sorted(
            info.filename for info in _archive(path, path.stat().st_mtime_ns).infolist() if not info.is_dir()
        )
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        yield not_dicom(DicomFile(path), "is no zip that can be read")
        return
    yield from (DicomFile(path, name) for name in names)


@lru_cache(maxsize=2)
def _archive(path: Path, _changed: int) -> zipfile.ZipFile:
    """Open, as its table of contents would otherwise be read again for each member."""
    return zipfile.ZipFile(path)


def _is_dicomdir(path: Path) -> bool:
    if path.suffix.lower() not in ("", ".dcm", ".dir"):
        return False
    from pydicom import dcmread

    try:
        return str(dcmread(path, specific_tags=[]).file_meta.MediaStorageSOPClassUID) == _DICOMDIR_CLASS
    # whatever is wrong with it is told when it is read as an image
    except Exception:
        return False


def _named_files(path: Path) -> Iterator[DicomFile | DicomError]:
    from pydicom import dcmread

    try:
        records = items(dcmread(path), "DirectoryRecordSequence")
    # damaged bytes raise nearly anything
    except Exception as error:
        yield not_dicom(DicomFile(path), f"is a damaged DICOMDIR ({type(error).__name__}); name the folder instead")
        return
    for parts in filter(None, (texts(record, "ReferencedFileID") for record in records)):
        found = _beside(path.parent, parts)
        if found is None:
            yield not_dicom(DicomFile(Path(parts[-1])), "is named by the DICOMDIR but isn't there; copy the whole disc")
        else:
            yield DicomFile(found)


def _beside(folder: Path, parts: Sequence[str]) -> Path | None:
    """The file of a DICOMDIR's record, in lower case where a copy made it so; never one outside of the folder."""
    if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts):
        return None
    candidates = (folder.joinpath(*parts), folder.joinpath(*map(str.lower, parts)))
    return next((path for path in candidates if path.is_file()), None)
