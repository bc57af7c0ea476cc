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
"""Streams of bytes that may hold far more, or far less, than they seem to."""

from __future__ import annotations

import io
import os
from typing import IO, BinaryIO

__all__ = ["LargeMember", "WithoutHoles"]

_ELEMENT = 8
_LONGEST_HOLE = 1000


class LargeMember(io.RawIOBase):
    """A member of a zip that is unfolded as far as it is read, and never held as a whole.

    Args:
        stream: as ``ZipFile.open`` gives it.
        size: of the member, in bytes.
        damaged: raised where the packed bytes can't be unfolded.
    """

    def __init__(self, stream: IO[bytes], size: int, damaged: Exception) -> None:
        self._stream, self._size, self._damaged, self._at = stream, size, damaged, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always; going back unfolds it from its beginning."""
        return True

    def tell(self) -> int:
        """Place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; nothing is unfolded before bytes of it are read."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as asked for, fewer at the end."""
        try:
            self._stream.seek(self._at)
            data = self._stream.read(-1 if size is None else size)
        # each packing has its own error, as zlib.error and lzma.LZMAError
        except Exception:
            raise self._damaged from None
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close it."""
        self._stream.close()
        super().close()


class WithoutHoles:
    """A stream that ends where nothing but zeros follow.

    A file whose rest was never written reads as element after element of no length, millions of them.

    Args:
        stream: what is read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._zeros = stream, 0

    def tell(self) -> int:
        """Place of the next byte."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for, fewer at the end.

        Raises:
            EOFError: in a hole.
        """
        data = self._stream.read(size)
        if 0 < len(data) <= _ELEMENT:
            self._zeros = 0 if any(data) else self._zeros + 1
            if self._zeros > _LONGEST_HOLE:
                raise EOFError("nothing but zeros")
        return data
