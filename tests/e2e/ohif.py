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

"""OHIF's page as a user has it: what she types, presses, scrolls and sees."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""WebGL without a graphics card, and root may start it, as in containers."""

_MILLISECONDS = 300_000
_AXIAL = "services.cornerstoneViewportService.getRenderingEngine().getViewport('mpr-axial')"
_VOLUME = "services.segmentationService.getLabelmapVolume('1')"
_POINTS = "() => cornerstoneTools.annotation.state.getAnnotationManager().getNumberOfAllAnnotations()"
_COLOURED = 24
_HAND = 800


class Ohif:
    """The viewer with one study, and the panel of MONAI Label in it.

    Args:
        page: of playwright.
        server: address of the MONAI Label server.
    """

    def __init__(self, page: Any, server: str) -> None:
        self.page, self.server = page, server
        page.set_default_timeout(_MILLISECONDS)
        # its fonts come from the internet, which a hospital's computers may not reach
        page.route("**/fonts.googleapis.com/**", lambda route: route.abort())

    def list_studies(self) -> str:
        """Open the list of studies; returns its text."""
        self.page.goto(f"{self.server}/ohif/")
        self.page.get_by_text("Confirm and Hide").click()
        self.page.get_by_text("ct_volume_").first.wait_for()
        return str(self.page.inner_text("body"))

    def unfold_study(self) -> None:
        """Choose the only study: the modes to open it in are shown."""
        self.page.get_by_text("ct_volume_").first.click()
        self.page.get_by_role("button", name="MONAI Label").wait_for()

    def open_study(self) -> None:
        """Open it in the mode of MONAI Label."""
        self.page.get_by_role("button", name="MONAI Label").click()
        self.page.wait_for_selector("#monailabelServerURL")
        self.page.wait_for_function(f"() => window.services && {_AXIAL}?.getSliceIndex?.() !== undefined")

    def connect(self) -> None:
        """Type the server's address into the panel, and press the button beside it."""
        self.page.fill("#monailabelServerURL", f"{self.server}/")
        self.page.click(".settingsTable button.actionButton")
        self.page.get_by_text("Auto-Segmentation").wait_for()
        self.page.wait_for_function(f"() => {_VOLUME}")

    def open_options(self) -> None:
        """Open the options of all models."""
        self.page.get_by_text("Options / Configurations").first.click()
        self.page.wait_for_selector("select[name=selectName]")

    def type_option(self, model: str, key: str, text: str) -> None:
        """Choose a model, and type into one of its options."""
        self.page.select_option("select[name=selectName]", model)
        self.page.fill(f"#infer{model}{key}", text)

    def confirm(self) -> None:
        """Press the button that closes the options."""
        self.page.get_by_role("button", name="Confirm").click()
        self.page.wait_for_selector("select[name=selectName]", state="detached")

    def open_tab(self, name: str) -> None:
        """Open a part of the panel."""
        self.page.get_by_text(name, exact=True).click()

    def choose(self, label: str) -> None:
        """Press a name in the list of organs."""
        self.page.locator("tr.clickable-row").filter(has_text=label).click()

    def run(self, title: str) -> tuple[str, bytes]:
        """Press a Run button; returns what the page sent and what it got, when the mask is in the viewer."""
        before = self.modified()
        with self.page.expect_response(lambda response: "/infer/" in response.url) as waited:
            self.page.locator(f"button[title='Run {title}']").click()
        response = waited.value
        assert response.status == 200, response.text()
        self.page.wait_for_function(f"before => {_VOLUME}.modified !== before", arg=before)
        self.settle()
        return str(response.request.post_data), bytes(response.body())

    def modified(self) -> Any:
        """Count of changes of the viewer's label map, from the first call on."""
        return self.page.evaluate(
            f"""() => {{
                const volume = {_VOLUME};
                if (volume.modified === undefined) {{
                    volume.modified = 0;
                    cornerstone.eventTarget.addEventListener(
                        'CORNERSTONE_TOOLS_SEGMENTATION_DATA_MODIFIED', () => volume.modified++);
                }}
                return volume.modified;
            }}"""
        )

    def label_map(self) -> np.ndarray:
        """The viewer's label map, (Z, Y, X) uint8."""
        found = self.page.evaluate(
            f"() => [{_VOLUME}.dimensions, Array.from({_VOLUME}.voxelManager.getCompleteScalarDataArray())]"
        )
        return np.array(found[1], np.uint8).reshape(found[0][::-1])

    def affine(self) -> np.ndarray:
        """(4, 4), index (x, y, z) of the viewer's label map -> LPS in mm."""
        origin, spacing, directions = self.page.evaluate(
            f"() => [{_VOLUME}.origin, {_VOLUME}.spacing, Array.from({_VOLUME}.direction)]"
        )
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(directions, (3, 3)).T * spacing
        affine[:3, 3] = origin
        return affine

    def segment_value(self, name: str) -> int:
        """Value of a segment in the viewer's label map."""
        segments = self.page.evaluate(
            "() => Object.values(services.segmentationService.getSegmentation('1').segments)"
            ".map(segment => [segment.label, segment.segmentIndex])"
        )
        return int(dict(segments)[name])

    def scroll_to(self, number: int) -> None:
        """Turn the mouse wheel over the axial view until it shows a slice, as the label map counts."""
        depth = self.label_map().shape[0]
        box = self._box()
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        turn, left = 100, abs(number - self._shown())
        for _ in range(4 * depth):
            if left == 0:
                break
            self.page.mouse.wheel(0, turn)
            self.settle()
            before, left = left, abs(number - self._shown())
            # which way is up is the viewer's choice
            turn = -turn if left > before else turn
        assert self._shown() == number

    def click_on(self, x: int, y: int, z: int) -> None:
        """Click on a voxel in the axial view, which shows its slice."""
        self.scroll_to(z)
        left, top = self._on_screen([(x, y, z)])[0]
        before = self.page.evaluate(_POINTS)
        self.page.mouse.move(left, top)
        self.page.mouse.down()
        # as slowly as a hand: the viewer waits for a second click, and takes what comes too soon for one
        self.page.wait_for_timeout(_HAND)
        self.page.mouse.up()
        self.page.wait_for_function(f"before => ({_POINTS})() > before", arg=before)
        self.page.wait_for_timeout(_HAND)

    def coloured(self, z: int) -> np.ndarray:
        """Where a slice that is shown has colour on the screen, (Y, X) bool: grey values have none."""
        assert self._shown() == z
        rows, columns = self.label_map().shape[1:]
        # a plane is drawn evenly, so three voxels tell where all are
        corner, along_x, along_y = self._on_screen([(0, 0, z), (1, 0, z), (0, 1, z)])
        y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1)
        places = corner + x * (along_x - corner) + y * (along_y - corner)
        image = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")).astype(int)
        at = np.clip(np.rint(places).astype(int), 0, np.array(image.shape[1::-1]) - 1)
        pixels = image[at[:, 1], at[:, 0]]
        found: np.ndarray = (pixels.max(1) - pixels.min(1) > _COLOURED).reshape(rows, columns)
        return found

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.wait_for_timeout(250)

    def picture(self, path: Path) -> None:
        """Keep what is seen, in few colours, so that it stays small."""
        self.settle()
        shown = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        shown.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)

    def submit(self, series: str, name: str, value: int) -> Any:
        """Send one segment by the call that the panel's own client has for it, and that no button of it makes."""
        return self.page.evaluate(
            f"""async ([server, series, name, value]) => {{
                const map = {_VOLUME}.voxelManager.getCompleteScalarDataArray();
                const form = new FormData();
                form.append('params', JSON.stringify({{label_info: [{{name: name, idx: 1}}]}}));
                const bytes = Uint8Array.from(map, found => found === value ? 1 : 0);
                form.append('label', new Blob([bytes]), 'label.bin');
                const address = `${{server}}/datastore/label?image=${{series}}`;
                const answer = await fetch(address, {{method: 'PUT', body: form}});
                return [answer.status, await answer.text()];
            }}""",
            [self.server, series, name, value],
        )

    def _shown(self) -> int:
        return int(
            self.page.evaluate(
                f"() => Math.round({_VOLUME}.imageData.worldToIndex({_AXIAL}.getCamera().focalPoint)[2])"
            )
        )

    def _box(self) -> Any:
        return self.page.evaluate(
            f"() => {{ const b = {_AXIAL}.canvas.getBoundingClientRect();"
            " return {x: b.x, y: b.y, width: b.width, height: b.height}; }"
        )

    def _on_screen(self, voxels: list[tuple[int, int, int]]) -> np.ndarray:
        """(N, 2) x, y of voxels' centres, pixels of the window."""
        box = self._box()
        places = self.page.evaluate(
            f"""voxels => voxels.map(
                voxel => Array.from({_AXIAL}.worldToCanvas({_VOLUME}.imageData.indexToWorld(voxel))))""",
            [list(voxel) for voxel in voxels],
        )
        found: np.ndarray = np.add(places, [box["x"], box["y"]])
        return found
