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

"""The one network of a server: loaded once, used by one request at a time, and changed without a restart."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_sa2va import __version__
from monai_sa2va.checkpoints.fingerprint import fingerprint
from monai_sa2va.errors import ConfigError
from monai_sa2va.label.adapter_store import AdapterStore
from monai_sa2va.label.cache import FeatureCache
from monai_sa2va.pictures import PictureReader
from monai_sa2va.predictor import Segmenter
from monai_sa2va.transforms.intensity import as_window

__all__ = ["ServedModel"]

_LOG = logging.getLogger(__name__)


class ServedModel:
    """A segmenter behind a lock.

    Args:
        bundle: as for :meth:`Segmenter.from_bundle`, like the next three.
        checkpoint: weights in place of the bundle's.
        adapter: what a fine-tuning of these weights wrote.
        device: where it runs.
        cache_bytes: most that is kept of features, bytes; 0 for nothing.
        learnt: adapters in place of ``adapter``; looked at before each request.

    Raises:
        ConfigError: when a file that is named is not there.
    """

    def __init__(
        self,
        bundle: str | None = None,
        checkpoint: str | None = None,
        adapter: str | None = None,
        device: str | None = None,
        cache_bytes: int = 2**30,
        learnt: AdapterStore | None = None,
    ) -> None:
        for name, file in (("checkpoint", checkpoint), ("adapter", adapter)):
            if file is not None and not Path(file).exists():
                raise ConfigError(f"{name} {Path(file).name!r} is not there; check its path")
        self._given: dict[str, Any] = {"checkpoint": checkpoint, "device": device}
        self._bundle, self._adapter = bundle, adapter
        self.cache = FeatureCache(cache_bytes)
        self._lock = threading.RLock()
        self._segmenter: Segmenter | None = None
        self._learnt, self._loaded = learnt, ""
        self._hash = ""
        self._told: dict[str, Any] | None = None

    @contextmanager
    def use(self, window: Any = None) -> Iterator[Segmenter]:
        """The segmenter, for one request; others wait their turn.

        Args:
            window: how grey values become 0 to 255; ``None`` as in the checkpoint's training.
        """
        with self._lock:
            segmenter = self._load()
            if window is not None:
                # the network is shared, the rest is light
                segmenter = copy.copy(segmenter)
                segmenter.window = as_window(window)
                segmenter.reader = PictureReader(segmenter.window, segmenter.stack)
            with self.cache.attached(segmenter.network, self._hash):
                yield segmenter

    def about(self) -> dict[str, Any]:
        """Which weights answer.

        Returns:
            ``version`` of this package, ``hash`` of all weights, 64 hexadecimal digits, and ``adapter``, the number of
            what was learnt, ``None`` where nothing was.
        """
        # while a request is answered, which may take minutes, what answers it is known
        if self._lock.acquire(blocking=self._told is None):
            try:
                self._load()
            finally:
                self._lock.release()
        return self.used()

    def used(self) -> dict[str, Any]:
        """Which weights :meth:`use` gave, as :meth:`about` says it; what was learnt since then has no part in it."""
        return dict(self._told or {})

    def _load(self) -> Segmenter:
        active = None if self._learnt is None else self._learnt.active()
        wanted = "" if active is None else str(active)
        if self._segmenter is None or wanted != self._loaded:
            if wanted and self._adapter:
                _LOG.warning("what was learnt answers in place of adapter; roll it back, or give another state")
            segmenter = Segmenter.from_bundle(self._bundle, adapter=wanted or self._adapter, **self._given)
            # only what was loaded whole takes the place of what answers
            self._segmenter, self._loaded = segmenter, wanted
            self._hash = fingerprint(segmenter.network.state_dict())["float32"]
            self._told = {"version": __version__, "hash": self._hash, "adapter": Path(wanted).parent.name or None}
            self.cache.clear()
            _LOG.info("model %s is loaded", self._hash[:16])
        return self._segmenter
