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

"""What is checked of a request before a stock endpoint sees it, endpoint by endpoint."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from monai_sa2va.data.headers import image_suffix
from monai_sa2va.label.incoming import Incoming, RefusedError, parse_object
from monai_sa2va.label.strategies import UNCERTAINTY

__all__ = ["check"]

# a client that could set these would choose a file of the server, or code that it runs
_RESERVED = ("image", "images", "model", "file", "session", "session_id", "bundle_path", "_id", "_image_id", "method")
# of an image: what strategies and scoring keep, and what the store answers with
_OWN = ("strategy", UNCERTAINTY, "id", "path")
_TAG = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,64}")
_ID = re.compile(r"(?!\.)[^/\\]{1,150}")
_SESSION = re.compile(r"[0-9a-f-]{36}")
_CHECKSUM = re.compile(r"((SHA256|SHA512|MD5):)?[0-9A-Fa-f]{1,128}")
_WHOLE = ("max_workers", "max_batch_size", "expiry", "timeout")

Rule = Callable[[Incoming, Any], None]


def check(request: Incoming, app: Any) -> None:
    """Refuse what no stock endpoint should see.

    Args:
        request: as it came in.
        app: the MONAI Label app, which knows the names of models, images and so on.

    Raises:
        RefusedError: with the status and a line for the user.
    """
    rule = _RULES.get(request.parts[0]) if request.parts else None
    if rule is not None:
        rule(request, app)


def _infer(request: Incoming, app: Any) -> None:
    if len(request.parts) != 2:
        raise RefusedError(404, "there is no such address; whole-slide models are not served")
    if request.method != "POST":
        return
    _known(request.parts[1], app.infer_names(), "model")
    params = _params(request)
    if request.query.get("output") == "dicom_seg" and "://" not in app.studies:
        raise RefusedError(400, "DICOM SEG needs a DICOM source, and the studies are a folder; ask for output=all")
    if params.get("label") is not None and not isinstance(params["label"], str):
        raise RefusedError(400, "params.label is no text; give a segment's name")
    if "label" in request.files:
        if "label" in params:
            raise RefusedError(400, "label comes twice, as a file and in params; send one of them")
        _one_image(request, "label")
    session = request.query.get("session_id", "")
    if session:
        if _SESSION.fullmatch(session) is None or not app.has_session(session):
            raise RefusedError(404, "there is no such session; it may have expired")
    elif "file" in request.files:
        _one_image(request, "file")
    else:
        _image(request.query.get("image", ""), app)


def _batch(request: Incoming, app: Any) -> None:
    if request.method == "POST" and len(request.parts) == 3:
        _known(request.parts[2], app.infer_names(), "model")
        _json_params(request)


def _train(request: Incoming, app: Any) -> None:
    _task(request, app.trainer_names(), "trainer")
    if request.method == "POST":
        # the stock endpoint says that a training was submitted, whatever it is to do
        given = parse_object(request.text(), "the body")
        for options in [given] if len(request.parts) == 2 else given.values():
            app.check_training(options if isinstance(options, dict) else {})


def _scoring(request: Incoming, app: Any) -> None:
    _task(request, app.scoring_names(), "scoring method")


def _activelearning(request: Incoming, app: Any) -> None:
    _task(request, app.strategy_names(), "strategy")


def _task(request: Incoming, names: list[str], what: str) -> None:
    if request.method != "POST":
        return
    if len(request.parts) == 2:
        _known(request.parts[1], names, what)
    params = _json_params(request)
    if len(request.parts) == 1:
        # one object a name
        for value in params.values():
            if isinstance(value, dict):
                _check_params(value)
        odd = [name for name in names if name in params and not isinstance(params[name], dict)]
        if odd:
            raise RefusedError(400, f"params.{odd[0]} is no JSON object")


def _datastore(request: Incoming, app: Any) -> None:
    place = "/".join(request.parts[1:])
    for key in ("image", "id", "label"):
        if key in request.query and _ID.fullmatch(request.query[key]) is None:
            raise RefusedError(400, f"{key} is no id of an image; give one of the studies")
    if "tag" in request.query and request.query["tag"] and _TAG.fullmatch(request.query["tag"]) is None:
        raise RefusedError(400, "tag has characters other than letters, digits, '_', '-' and '.'")
    if request.method in ("GET", "HEAD"):
        if _CHECKSUM.fullmatch(request.query.get("check_sum", "0")) is None:
            raise RefusedError(400, "check_sum is none of MD5, SHA256 and SHA512, e.g. SHA256:0123...")
        if place == "dataset" and not app.datastore().datalist():
            raise RefusedError(404, "no label has been submitted yet")
        if place.partition("/")[0] == "image" and "image" in request.query:
            _image(request.query["image"], app)
    elif request.method == "PUT":
        if request.size and not request.is_form:
            raise RefusedError(400, "the body is no form; send multipart/form-data")
        told = {**_check_params(_field(request, "params")), **_field(request, "info")}
        own = next((key for key in _OWN if key in told), None)
        # the next sample, of every client, would be read from it
        if own is not None and place.partition("/")[0] in ("", "image"):
            raise RefusedError(400, f"{own!r} of an image is what the server itself keeps")
        if place in ("", "image"):
            _one_image(request, "file")
        elif place == "label":
            _image(request.query.get("image", ""), app)
            # OHIF sends bare values, which the stock code reads by the series
            raw = [name.endswith(".bin") for name in request.files.get("label", [])] == [True]
            if not (raw and "://" in app.studies):
                _one_image(request, "label")
        elif "image" in request.query:
            _image(request.query["image"], app)
    elif request.method == "DELETE" and place == "label":
        # of one that isn't there the stock endpoint says that it is gone
        _image(request.query.get("id", ""), app)


def _session(request: Incoming, app: Any) -> None:
    if request.method == "PUT":
        if request.query.get("uncompress", "false").lower() not in ("false", "0", "no", "off", "f", "n"):
            raise RefusedError(400, "archives are not unpacked; send one image file")
        if "files" in request.files:
            _one_image(request, "files")
        if abs(_as_int(request.query.get("expiry", "0"))) > 10**9:
            raise RefusedError(400, "expiry is no number of seconds")
    elif len(request.parts) == 2 and _SESSION.fullmatch(request.parts[1]) is None:
        raise RefusedError(404, "there is no such session")


def _model(request: Incoming, app: Any) -> None:
    if request.method in ("PUT", "DELETE"):
        raise RefusedError(
            403, "weights are not changed through this address; start the server with --checkpoint, or train"
        )


def _proxy(request: Incoming, app: Any) -> None:
    if "://" not in app.studies:
        raise RefusedError(404, "the studies are a folder; there is no DICOMweb server behind this address")
    # it is put together with the server's address, by code that decodes once more and takes \ for /
    place, decoded = "", "/".join(request.parts)
    while place != decoded:
        place, decoded = decoded, unquote(decoded)
    if ".." in re.split(r"[/\\?#;]", place):
        raise RefusedError(400, "the address leaves the DICOMweb server's")


def _logs(request: Incoming, app: Any) -> None:
    if request.parts[1:] != ("gpu",):
        raise RefusedError(404, "the log goes to the terminal that the server was started in")
    if shutil.which("nvidia-smi") is None:
        raise RefusedError(404, "there is no nvidia-smi on the server")


def _ohif(request: Incoming, app: Any) -> None:
    from monailabel.endpoints import ohif

    # the stock endpoint takes a folder for a file
    if len(request.parts) == 2 and (Path(ohif.__file__).parent / "static" / "ohif" / request.parts[1]).is_dir():
        raise RefusedError(404, "there is no such page")


def _reload(request: Incoming, app: Any) -> None:
    raise RefusedError(403, "the app is not reloaded through this address; restart the server")


_RULES: dict[str, Rule] = {
    "infer": _infer,
    "batch": _batch,
    "train": _train,
    "scoring": _scoring,
    "activelearning": _activelearning,
    "datastore": _datastore,
    "session": _session,
    "model": _model,
    "proxy": _proxy,
    "logs": _logs,
    "ohif": _ohif,
    "reload": _reload,
}


def _params(request: Incoming) -> dict[str, Any]:
    if request.size and not request.is_form:
        raise RefusedError(400, "the body is no form; send params as a field of multipart/form-data")
    if "params" in request.files:
        raise RefusedError(400, "params is a file; send it as a text field")
    return _check_params(_field(request, "params"))


def _field(request: Incoming, name: str) -> dict[str, Any]:
    """A JSON object in a form, where the stock endpoints take neither ``null`` nor blanks for an empty one."""
    text = request.fields.get(name, "")
    if text and text.strip() in ("", "null"):
        raise RefusedError(400, f"{name} is no JSON object; send one such as {{}}")
    return parse_object(text, name)


def _json_params(request: Incoming) -> dict[str, Any]:
    return _check_params(parse_object(request.text(), "the body"))


def _check_params(params: dict[str, Any]) -> dict[str, Any]:
    reserved = next((key for key in _RESERVED if key in params), None)
    if reserved is not None:
        raise RefusedError(400, f"params may not hold {reserved!r}; the address says it")
    for key in _WHOLE:
        value = params.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
            raise RefusedError(400, f"params.{key} is no whole number of at least 0")
    tag = params.get("label_tag", "final")
    if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
        raise RefusedError(400, "params.label_tag has characters other than letters, digits, '_', '-' and '.'")
    for key in ("device", "gpus", "logging", "strategy"):
        if not isinstance(params.get(key, ""), str):
            raise RefusedError(400, f"params.{key} is no text")
    return params


def _one_image(request: Incoming, key: str) -> None:
    names = request.files.get(key, [])
    if len(names) != 1:
        raise RefusedError(400, f"{key} has {len(names)} files; send one image")
    name = re.split(r"[/\\]", names[0])[-1]
    if not name or name.startswith(".") or len(name.encode()) > 200 or not name.isprintable():
        raise RefusedError(400, f"{key} has a name that is none of a file")
    if not image_suffix(name):
        raise RefusedError(400, f"{key} is no image by its name; send .nii.gz, .nii, .nrrd or .png")


def _image(image: str, app: Any) -> None:
    if not image:
        raise RefusedError(400, "the address names no image; add ?image= with the id of one of the studies")
    if _ID.fullmatch(image) is None or not app.has_image(image):
        raise RefusedError(404, "there is no image of that id in the studies")


def _known(name: str, names: list[str], what: str) -> None:
    if name not in names:
        raise RefusedError(404, f"there is no {what} of that name; known: {', '.join(names) or 'none'}")


def _as_int(text: str) -> int:
    """What the endpoint refuses itself where it is no number counts as 0."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else 0 if len(text) < 16 else 10**10
