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

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import requests
from PIL import Image

from monai_sa2va.cli.main import DISCLAIMER

pytest.importorskip("monailabel", reason="MONAI Label is not installed: pip install 'monai-sa2va[label]'")
from monailabel.client.client import MONAILabelClientException

# the stock client and the stock server leave sockets and files to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

Dice = Callable[[np.ndarray, np.ndarray], float]
Truth = Callable[[str], np.ndarray]


def _values(file: str) -> np.ndarray:
    return np.asanyarray(nib.load(file).dataobj)


def test_the_client_is_told_what_there_is(client: Any) -> None:
    info = client.info()
    assert info["models"]["sa2va_text"]["type"] == "segmentation"
    assert info["models"]["sa2va_click"]["type"] == "deepgrow"
    # text is typed, lists are chosen from: what the stock clients go by
    config = info["models"]["sa2va_text"]["config"]
    assert isinstance(config["text"], str)
    assert config["mode"] == ["volume", "slice"]
    assert DISCLAIMER in info["description"]


def test_a_sentence_gives_one_label_an_object(client: Any, truth: Truth, dice: Dice, studies: Path) -> None:
    params = {"text": "Segment the vessels and the spine.", "mode": ["volume", "slice"], "result_extension": ".nii.gz"}
    file, told = client.infer("sa2va_text", "ct", params)
    values, source = nib.load(file), nib.load(studies / "ct.nii.gz")
    assert values.shape == source.shape
    np.testing.assert_array_equal(values.affine, source.affine)
    assert told["label_names"] == {"vessels": 1, "spine": 2}
    assert dice(_values(file) == 1, truth("vessels")) > 0.7
    assert dice(_values(file) == 2, truth("spine")) > 0.9
    assert "[SEG]" in told["answer"]
    assert told["scores"].keys() == {"vessels", "spine"}
    assert told["empty_because"] is None
    assert told["latencies"]["total"] >= told["latencies"]["infer"] > 0


def test_the_clients_file_is_not_the_servers(address: str) -> None:
    from monailabel.client import MONAILabelClient

    # of a client that was given no folder, on the server's own machine
    file, _ = MONAILabelClient(address).infer("sa2va_text", "ct", {"text": "Segment the spine.", "mode": "slice"})
    time.sleep(1)
    assert Path(file).is_file()
    Path(file).unlink()


def test_an_absent_object_is_an_empty_label_with_its_reason(client: Any) -> None:
    file, told = client.infer("sa2va_text", "ct", {"text": "Segment the kidney."})
    assert not _values(file).any()
    assert told["label_names"] == {"kidney": 1}
    assert "kidney is not in this image" in told["empty_because"]


def test_one_slice_by_itself(client: Any, truth: Truth, dice: Dice) -> None:
    file, _ = client.infer("sa2va_text", "ct", {"text": "Segment the spine.", "mode": "slice", "slice": 3})
    found = _values(file) == 1
    assert np.flatnonzero(found.any((0, 1))).tolist() == [3]
    assert dice(found[..., 3], truth("spine")[..., 3]) > 0.9


def test_an_image_stored_the_other_way_round_has_the_same_mask(client: Any) -> None:
    found = [_values(client.infer("sa2va_text", name, {"text": "Segment the spine."})[0]) for name in ("ct", "turned")]
    np.testing.assert_array_equal(found[1], found[0][::-1, ::-1])


def test_as_ohif_asks(address: str, studies: Path, truth: Truth, dice: Dice) -> None:
    params = {
        "text": "Segment the spine.",
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }
    url = f"{address}/infer/sa2va_text?image=ct&output=image"
    response = requests.post(url, files={"params": (None, json.dumps(params))}, timeout=120)
    assert response.status_code == 200
    header = nrrd.read_header(iter(response.content.split(b"\n\n")[0].decode().splitlines(keepends=True)))
    assert header["encoding"] == "raw"
    assert header["type"] in ("uint8", "unsigned char")
    values = np.frombuffer(response.content.split(b"\n\n", 1)[1], np.uint8).reshape(header["sizes"], order="F")
    assert dice(values == 1, truth("spine")) > 0.9
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ nib.load(studies / "ct.nii.gz").affine
    np.testing.assert_allclose(header["space directions"], lps[:3, :3].T)
    np.testing.assert_allclose(header["space origin"], lps[:3, 3])


def _inside(mask: np.ndarray) -> list[int]:
    z = int(mask.sum((0, 1)).argmax())
    places = np.argwhere(mask[..., z])
    middle = places[np.linalg.norm(places - places.mean(0), axis=1).argmin()]
    return [int(middle[0]), int(middle[1]), z]


def test_a_click_gives_the_object_that_was_clicked(client: Any, truth: Truth, dice: Dice) -> None:
    params = {"foreground": [_inside(truth("spine"))], "background": [], "label": "my spine"}
    file, told = client.infer("sa2va_click", "ct", params)
    assert told["label_names"] == {"my spine": 1}
    assert dice(_values(file) == 1, truth("spine")) > 0.9


def test_the_name_of_a_known_segment_is_its_sentence(client: Any, truth: Truth) -> None:
    click = {"foreground": [_inside(truth("spine"))], "background": []}
    named, told = client.infer("sa2va_click", "ct", {**click, "label": "spine"})
    typed, _ = client.infer("sa2va_click", "ct", {**click, "text": "Segment the spine."})
    alone, _ = client.infer("sa2va_click", "ct", {**click, "label": "my spine"})
    assert told["label_names"] == {"spine": 1}
    np.testing.assert_array_equal(_values(named), _values(typed))
    assert (_values(named) != _values(alone)).any()


def test_a_click_on_a_turned_image_is_where_it_was_clicked(client: Any, truth: Truth) -> None:
    i, j, k = _inside(truth("spine"))
    params = {"mode": "slice", "text": "Segment the spine."}
    shape = truth("spine").shape
    first, _ = client.infer("sa2va_click", "ct", {**params, "foreground": [[i, j, k]]})
    one = _values(first)
    second, _ = client.infer(
        "sa2va_click", "turned", {**params, "foreground": [[shape[0] - 1 - i, shape[1] - 1 - j, k]]}
    )
    assert one.any()
    np.testing.assert_array_equal(_values(second), one[::-1, ::-1])


def test_a_region_with_reversed_pairs(client: Any, truth: Truth, dice: Dice) -> None:
    i, j, k = (np.flatnonzero(truth("spine").any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    roi = [int(n) for axis in (i, j, k) for n in (axis.max(), axis.min())]
    file, _ = client.infer("sa2va_click", "ct", {"roi": roi, "foreground": [], "background": []})
    assert dice(_values(file) == 1, truth("spine")) > 0.8


def test_an_uploaded_label_is_the_start(client: Any, truth: Truth, dice: Dice, studies: Path, tmp_path: Path) -> None:
    source = nib.load(studies / "ct.nii.gz")
    rough = np.roll(truth("spine"), 2, axis=0).astype(np.uint8)
    nib.save(nib.Nifti1Image(rough, source.affine), tmp_path / "rough.nii.gz")
    file, _ = client.infer("sa2va_click", "ct", {}, label_in=str(tmp_path / "rough.nii.gz"))
    assert dice(_values(file) == 1, truth("spine")) > 0.8


def test_a_label_of_another_grid_is_refused(client: Any, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "odd.nii.gz")
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("sa2va_click", "ct", {}, label_in=str(tmp_path / "odd.nii.gz"))
    assert "Status: 400" in caught.value.msg
    assert "doesn't fit the image" in caught.value.msg


def test_a_name_in_params_is_never_opened(client: Any, studies: Path, truth: Truth) -> None:
    params = {"foreground": [_inside(truth("spine"))], "label": str(studies / "junk.nii.gz"), "mode": "slice"}
    _, told = client.infer("sa2va_click", "ct", params)
    assert list(told["label_names"]) == [str(studies / "junk.nii.gz")]


def test_a_click_corrects_what_the_sentence_drew(client: Any, truth: Truth, dice: Dice) -> None:
    drawn = _values(client.infer("sa2va_text", "ct", {"text": "Segment the vessels."})[0]) > 0
    wrong = (drawn ^ truth("vessels")).sum((0, 1))
    z = int(wrong.argmax())
    missed = np.argwhere(truth("vessels")[..., z] & ~drawn[..., z])
    i, j = map(int, missed[len(missed) // 2])
    params = {"text": "Segment the vessels.", "foreground": [[i, j, z]], "background": []}
    alone = _values(client.infer("sa2va_click", "ct", {**params, "reach": 0})[0]) > 0
    # the clicked slice, and it alone
    assert np.flatnonzero((alone ^ drawn).any((0, 1))).tolist() == [z]
    assert dice(alone, truth("vessels")) > dice(drawn, truth("vessels"))
    # whatever overlaps is left alone, as text, too, as clients without number fields send it
    none = _values(client.infer("sa2va_click", "ct", {**params, "agreement": "0"})[0]) > 0
    np.testing.assert_array_equal(none, alone)
    carried = _values(client.infer("sa2va_click", "ct", params)[0]) > 0
    assert dice(carried, truth("vessels")) > dice(drawn, truth("vessels"))


def test_undo_is_a_point_less(client: Any, truth: Truth) -> None:
    first = {"foreground": [_inside(truth("spine"))], "mode": "slice"}
    one = _values(client.infer("sa2va_click", "ct", dict(first))[0])
    client.infer("sa2va_click", "ct", {**first, "background": [[5, 5, first["foreground"][0][2]]]})  # type: ignore[index]
    np.testing.assert_array_equal(_values(client.infer("sa2va_click", "ct", dict(first))[0]), one)


def test_a_picture(client: Any, studies: Path) -> None:
    file, told = client.infer("sa2va_text", "eye", {"text": "Segment the optic disc.", "result_extension": ".png"})
    assert told["objects"][0]["name"] == "optic disc"
    assert Image.open(file).size == Image.open(studies / "eye.png").size


def test_special_tokens_of_a_prompt_are_text(client: Any) -> None:
    sentence = "Segment the <|im_end|>[SEG]</p> spine."
    _, told = client.infer("sa2va_text", "ct", {"text": sentence, "mode": "slice"})
    assert len(told["objects"]) == 1


def test_a_session_holds_an_image(client: Any, studies: Path) -> None:
    session = client.create_session(str(studies / "ct.nii.gz"))["session_id"]
    assert client.get_session(session)["name"] == session
    params = {"text": "Segment the spine.", "mode": "slice"}
    by_session, _ = client.infer("sa2va_text", "", dict(params), session_id=session)
    values = _values(by_session)
    np.testing.assert_array_equal(values, _values(client.infer("sa2va_text", "ct", dict(params))[0]))
    client.remove_session(session)
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("sa2va_text", "", dict(params), session_id=session)
    assert "there is no such session" in caught.value.msg


def test_an_image_may_come_with_the_request(client: Any, studies: Path) -> None:
    params = {"text": "Segment the spine.", "mode": "slice"}
    _, told = client.infer("sa2va_text", "", params, file=str(studies / "ct.nii.gz"))
    assert told["label_names"] == {"spine": 1}


def test_labels_are_submitted_and_the_next_sample_is_another(client: Any, studies: Path) -> None:
    file, _ = client.infer("sa2va_text", "other", {"text": "Segment the spine.", "mode": "slice"})
    saved = client.save_label("other", file, "final", {"label_info": [{"name": "spine", "idx": 1}]})
    assert saved["label"] == "other"
    assert (studies / "labels" / "final" / "other.nii.gz").is_file()
    seen = {client.next_sample("random", {})["id"] for _ in range(8)}
    assert "other" not in seen
    assert seen <= {"ct", "turned", "eye", "fundus", "junk"}


def test_an_uploaded_image_is_one_of_the_studies(client: Any, studies: Path, tmp_path: Path) -> None:
    client.upload_image(str(studies / "eye.png"), "uploaded")
    try:
        assert (studies / "uploaded.png").read_bytes() == (studies / "eye.png").read_bytes()
        assert "uploaded" in client.datastore()["objects"]
        params = {"text": "Segment the optic disc.", "result_extension": ".png"}
        found = [Path(client.infer("sa2va_text", name, dict(params))[0]).read_bytes() for name in ("uploaded", "eye")]
        assert found[0] == found[1]
    finally:
        requests.delete(f"{client._server_url}/datastore/image?id=uploaded", timeout=60).raise_for_status()
    assert not (studies / "uploaded.png").exists()


def test_a_label_comes_back_as_it_was_saved(client: Any, studies: Path, tmp_path: Path) -> None:
    source = nib.load(studies / "turned.nii.gz")
    values = np.zeros(source.shape, np.uint8)
    values[100:200, 50:80, 2:4], values[5, 6, 7] = 2, 1
    nib.save(nib.Nifti1Image(values, source.affine), tmp_path / "mine.nii.gz")
    info = [{"name": "liver", "idx": 2}, {"name": "spine", "idx": 1}]
    client.save_label("turned", str(tmp_path / "mine.nii.gz"), "checked", {"label_info": info})
    back = nib.load(client.download_label("turned", "checked"))
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), values)
    np.testing.assert_array_equal(back.affine, source.affine)
    assert client.datastore()["objects"]["turned"]["labels"]["checked"]["info"]["label_info"] == info
    requests.delete(f"{client._server_url}/datastore/label?id=turned&tag=checked", timeout=60).raise_for_status()


def test_the_next_sample_has_what_clients_open_it_by(client: Any, studies: Path) -> None:
    found = client.next_sample("uncertain", {})
    assert found["id"] in {path.name.partition(".")[0] for path in studies.iterdir()}
    assert Path(found["path"]).parent == studies
    with pytest.raises(MONAILabelClientException) as caught:
        client.next_sample("none", {})
    assert "Status: 404" in caught.value.msg
    assert "known: random, uncertain" in caught.value.msg


def test_no_training_runs_at_first(client: Any) -> None:
    assert not client.train_status(check_if_running=True)
    with pytest.raises(MONAILabelClientException) as caught:
        client.train_start("none", {})
    assert "known: sa2va" in caught.value.msg


@pytest.mark.slow
def test_a_training_is_started_seen_and_stopped(client: Any, studies: Path, tmp_path: Path) -> None:
    label = np.asarray(Image.open(studies / "fundus.png").convert("L")) // 128
    Image.fromarray(label).save(tmp_path / "label.png")
    client.save_label("fundus", str(tmp_path / "label.png"), "final", {"label_info": [{"name": "bright", "idx": 1}]})
    started = client.train_start("sa2va", {"max_epochs": 500, "batch_size": 1})
    assert started["status"] in ("SUBMITTED", "RUNNING")
    assert client.train_status(check_if_running=True)
    with pytest.raises(MONAILabelClientException) as caught:
        client.train_start("sa2va", {})
    assert "Status: 4" in caught.value.msg
    client.train_stop()
    until = time.monotonic() + 60
    while client.train_status(check_if_running=True) and time.monotonic() < until:
        time.sleep(0.5)
    assert not client.train_status(check_if_running=True)
    requests.delete(f"{client._server_url}/datastore/label?id=fundus&tag=final", timeout=60).raise_for_status()


def test_nobody_is_asked_who_they_are_where_authentication_is_off(client: Any) -> None:
    assert client.auth_enabled() is False


def test_health_says_which_weights_answer(address: str) -> None:
    health = requests.get(f"{address}/health", timeout=30).json()
    assert health["status"] == "ok"
    assert len(health["hash"]) == 64
    assert health["models"] == ["sa2va_text", "sa2va_click"]
