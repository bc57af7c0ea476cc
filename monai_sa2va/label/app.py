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

"""The MONAI Label app: which tasks there are, and which files they may read."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from monai_sa2va.label.repair import repair_pydicom

# the stock server starts tasks in processes of their own, which no launcher repaired
repair_pydicom()

from monailabel.datastore.local import LocalDatastore  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.datastore import DefaultLabelTag  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402

from monai_sa2va import __version__  # noqa: E402
from monai_sa2va.cli.main import DISCLAIMER  # noqa: E402
from monai_sa2va.errors import ConfigError  # noqa: E402
from monai_sa2va.label.adapter_store import AdapterStore  # noqa: E402
from monai_sa2va.label.dicomweb import fetch_series, find_series, limit_time  # noqa: E402
from monai_sa2va.label.infer_click import ClickTask  # noqa: E402
from monai_sa2va.label.infer_task import Sa2VAInferTask  # noqa: E402
from monai_sa2va.label.infer_text import TextTask  # noqa: E402
from monai_sa2va.label.options import RequestError  # noqa: E402
from monai_sa2va.label.scoring import Uncertainty  # noqa: E402
from monai_sa2va.label.served_model import ServedModel  # noqa: E402
from monai_sa2va.label.strategies import AnyUnlabelled, MostUncertain  # noqa: E402
from monai_sa2va.label.train import Learning, check_options  # noqa: E402

__all__ = ["DEFAULT_LABELS", "NotKnownError", "Sa2VALabelApp"]

DEFAULT_LABELS = ("object", "object 2", "object 3", "object 4")
"""Names that clients show for objects whose own name the server was not started with."""

_UID = re.compile(r"[0-9.]{1,64}")
_SETTINGS = ("bundle", "checkpoint", "adapter", "device")
_OTHERS = ("labels", "cache_mib")


class NotKnownError(RequestError):
    """A name of a request that the server doesn't know."""

    code = "NOT_FOUND"


class Sa2VALabelApp(MONAILabelApp):
    """Sa2VA behind the stock clients.

    Args:
        app_dir: folder of the app's ``main.py``.
        studies: folder of images, or address of a DICOMweb server.
        conf: ``bundle``, ``checkpoint``, ``adapter`` and ``device`` as for
            :class:`~monai_sa2va.label.served_model.ServedModel`, ``labels``, names separated by commas, and
            ``cache_mib``, most that is kept of features.

    Raises:
        ConfigError: when ``conf`` has a key that is unknown, or names a file that is not there.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None = None) -> None:
        conf = {key: value for key, value in (conf or {}).items() if value}
        odd = sorted(conf.keys() - {*_SETTINGS, *_OTHERS})
        if odd:
            raise ConfigError(f"conf has {odd[0]!r}; known: {', '.join((*_SETTINGS, *_OTHERS))}")
        self.named = [name.strip() for name in conf.get("labels", "").split(",") if name.strip()]
        self.label_list = list(dict.fromkeys([*self.named, *DEFAULT_LABELS]))
        self.given: dict[str, Any] = {key: conf.get(key) for key in _SETTINGS}
        kept = conf.get("cache_mib", "1024")
        if not kept.isdecimal():
            raise ConfigError(f"cache_mib is {kept!r}; give a whole number of MiB")
        self._fetching = threading.Lock()
        self.learnt = AdapterStore(Path(app_dir) / "adapters")
        self.model = ServedModel(**self.given, cache_bytes=int(kept) * 2**20, learnt=self.learnt)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="monai-sa2va",
            description=f"Segment by sentence and click with Sa2VA. {DISCLAIMER}",
            version=__version__,
            labels=self.label_list,
        )

    def init_infers(self) -> dict[str, Sa2VAInferTask]:
        """The tasks by name."""
        return {
            "sa2va_text": TextTask(self.model, self.label_list),
            "sa2va_click": ClickTask(self.model, self.label_list, self.named),
        }

    def init_trainers(self) -> dict[str, Learning]:
        """What trains by name."""
        return {"sa2va": Learning(self.learnt, **self.given, labels=self.label_list)}

    def init_scoring_methods(self) -> dict[str, Uncertainty]:
        """The ways to score images by name."""
        return {"uncertainty": Uncertainty(self.model, self.label_list)}

    def init_strategies(self) -> dict[str, Strategy]:
        """The ways to choose the next image by name."""
        return {"random": AnyUnlabelled(), "uncertain": MostUncertain()}

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Answer a request.

        The stock method takes any path of the machine for an image; here it is an image of the studies, of a session,
        or one that came with the request.

        Args:
            request: ``model``, ``image`` and what the task takes; ``save_label`` and ``label_tag`` to keep the label.
            datastore: in place of the app's own.

        Returns:
            ``label``, ``tag``, ``file`` and ``params`` as the stock endpoints expect.

        Raises:
            NotKnownError: when there is no such model or image.
            Sa2VAError: as the task does.
        """
        task = self._infers.get(request.get("model"))
        if task is None:
            raise NotKnownError(f"there is no model of that name; known: {', '.join(self._infers)}")
        store = datastore or self.datastore()
        image = request.get("image")
        if not isinstance(image, str):
            raise RequestError("image is no text; give the id of one of the studies")
        path, known = self._file(image, store)
        file, answer = task({**request, "image": path})
        label, tag = file, request.get("label_tag") or DefaultLabelTag.ORIGINAL
        if request.get("save_label") and known:
            label = store.save_label(image, file, tag, {"model": request["model"], "params": answer})
        return {"label": label, "tag": tag, "file": file, "params": answer}

    def infer_names(self) -> list[str]:
        """Names of the tasks."""
        return list(self._infers)

    def trainer_names(self) -> list[str]:
        """Names of what trains."""
        return list(self._trainers)

    def check_training(self, options: Mapping[str, Any]) -> None:
        """Refuse options that no training can use.

        Raises:
            RequestError: when one can't be used.
        """
        check_options(options)

    def strategy_names(self) -> list[str]:
        """Names of the ways to choose the next image."""
        return list(self._strategies)

    def scoring_names(self) -> list[str]:
        """Names of the ways to score images."""
        return list(self._scoring_methods)

    def has_image(self, image: str, store: Any = None) -> bool:
        """Whether an id is one of the studies'; of a DICOMweb server's, the UID of any series that it has."""
        known = store or self.datastore()
        if "://" not in self.studies:
            return image in known.list_images()
        return _UID.fullmatch(image) is not None and find_series(known._client, image) is not None

    def has_session(self, session: str) -> bool:
        """Whether a session is open."""
        return self._sessions is not None and self._sessions.get_session(session) is not None

    def _file(self, image: str, store: Any) -> tuple[str, bool]:
        """Path of an image, and whether it is one of the studies."""
        if image and self.has_image(image, store):
            if "://" not in self.studies:
                return str(store.get_image_uri(image)), True
            with self._fetching:
                return str(fetch_series(store, image)), True
        path = Path(os.path.realpath(image)) if image else None
        if path is not None and path.is_file() and any(path.is_relative_to(place) for place in self._places()):
            return str(path), False
        raise NotKnownError("there is no image of that id in the studies")

    def _places(self) -> list[Path]:
        """Folders whose files may be opened: uploads, sessions and the studies."""
        places = [tempfile.gettempdir()]
        if self._sessions is not None:
            places.append(self._sessions.store_path)
        if "://" not in self.studies:
            places.append(self.studies)
        return [Path(os.path.realpath(place)) for place in places]

    def _init_dicomweb_datastore(self) -> Any:
        """The stock one, which would wait for its server without end."""
        store = super()._init_dicomweb_datastore()
        limit_time(store._client._session)
        # what doesn't answer would be asked for minutes
        store._client.set_http_retry_params(retry=False)
        # the stock method takes a label's id for that of a SEG, and knows no image to keep it by
        store.get_label_uri = partial(_kept_label, store, store.get_label_uri)
        return store

    def _download_dcmqi_tools(self) -> None:
        """Nothing is fetched from the internet."""


def _kept_label(store: Any, fetch: Callable[..., str], label_id: str, label_tag: str, image_id: str = "") -> str:
    """File of a label that was submitted here; one of another program is fetched where its image is told.

    Raises:
        NotKnownError: when it wasn't, and no image is told.
    """
    file = LocalDatastore.get_label_uri(store, image_id or label_id, label_tag)
    if file and Path(file).is_file():
        return str(file)
    if image_id:
        return fetch(label_id, label_tag, image_id)
    raise NotKnownError("no such label was submitted here; fetch others from the DICOMweb server itself")
