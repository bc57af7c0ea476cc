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

"""Run by the interpreter that has ``slicer-core``: does with MONAI Label's own extension what its user does.

    python slicer_side.py EXTENSION ADDRESS FOLDER < STEPS

STEPS is a JSON list of objects, whose ``do`` names a function below and whose other entries are its arguments. After
each step the segments are written to FOLDER/<number>.npz, on the volume's own voxels, axes i, j, k. The last line
printed is a JSON object: ``messages`` (windows that the extension opened) and ``requests`` (parameters it sent).
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
import slicer_window
import vtk

SIDE = 320
# Slicer takes them from a table of names that slicer-core doesn't have
COLORS = {"vessels": (0.85, 0.2, 0.2), "spine": (0.2, 0.6, 0.95)}


class Desk:
    """The extension's window, and who sits before it."""

    def __init__(self, extension: Path, address: str) -> None:
        module = slicer_window.install(extension)
        # else each new sample begins with the sentence that the options hold
        slicer_window.SETTINGS["MONAILabel/autoRunSegmentationOnNextSample"] = False
        self.widget = module.MONAILabelWidget(slicer_window.Widget(isEntered=True))
        self.widget.setup()
        self.requests: list[dict[str, Any]] = []
        infer = self.widget.logic.infer

        def told(model: str, image: str, params: dict[str, Any], *more: Any, **named: Any) -> Any:
            self.requests.append({"model": model, "image": image, "session": named.get("session_id"), **params})
            return infer(model, image, copy.deepcopy(params), *more, **named)

        self.widget.logic.infer = told
        self.widget.ui.serverComboBox.setCurrentText(address)
        self.widget.onClickFetchInfo()

    def open(self, file: str) -> None:
        """File, Add Data."""
        slicer.util.loadVolume(file)
        self.widget.updateGUIFromParameterNode()

    def option(self, model: str, **values: Any) -> None:
        """Options, section infer."""
        ui = self.widget.ui
        ui.optionsName.setCurrentIndex(ui.optionsName.findText(model))
        table = ui.configTable
        for row in range(table.rowCount):
            key = table.item(row, 0).text()
            if key in values:
                cell = table.item(row, 1) or table.cellWidget(row, 1)
                {
                    slicer_window.TableItem: lambda cell, value: cell.setText(value),
                    slicer_window.CheckBox: lambda cell, value: cell.setChecked(value),
                    slicer_window.ComboBox: lambda cell, value: cell.setCurrentText(value),
                }[type(cell)](cell, values.pop(key))
        assert not values, values

    def next(self) -> None:
        """Next Sample."""
        self.widget.onNextSampleButton()

    def sample(self, path: str, image: str) -> None:
        """What Next Sample does where it chose an image: the choice is random."""
        logic = self.widget.logic
        logic.next_sample = lambda strategy, params: {"id": image, "path": path, "name": Path(path).name}
        self.widget.onNextSampleButton()
        del logic.next_sample

    def sentence(self, model: str = "sa2va_text") -> None:
        """Auto Segmentation, Run."""
        self.widget.ui.segmentationModelSelector.setCurrentText(model)
        self.widget.onClickSegmentation()

    def click(self, segment: str, on: list[list[float]], beside: list[list[float]]) -> None:
        """SmartEdit: points in RAS, mm; each runs the model, as the box Auto is ticked."""
        self.widget.ui.labelComboBox.setCurrentText(segment)
        nodes = (self.widget.dgPositivePointListNode, self.widget.dgNegativePointListNode)
        for node, points in zip(nodes, (on, beside), strict=True):
            for point in points:
                # Slicer's views make the point under the mouse the active one
                node.GetDisplayNode().SetActiveControlPoint(node.GetNumberOfControlPoints())
                node.AddControlPoint(point)

    def undo(self) -> None:
        """The last point is deleted, and Update pressed."""
        node = self.widget.dgNegativePointListNode
        node.RemoveNthControlPoint(node.GetNumberOfControlPoints() - 1)
        self.widget.onUpdateDeepgrow()

    def region(self, segment: str, center: list[float], size: list[float]) -> None:
        """SmartEdit: a region in RAS, mm, then Update."""
        self.widget.ui.labelComboBox.setCurrentText(segment)
        node = self.widget.ui.sam2PlaceWidget.currentNode()
        node.SetCenter(center)
        node.SetSize(size)
        self.widget.onUpdateDeepgrow()

    def submit(self) -> None:
        """Submit Label."""
        self.widget.onSaveLabel()

    def picture(self, path: str, number: int) -> None:
        """What a slice view shows, as Slicer's own logic lays segments over the volume; without Qt and its frame."""
        scene, volume, segmentation = slicer.mrmlScene, self.widget._volumeNode, self.widget._segmentNode
        for name, color in COLORS.items():
            segmentation.GetSegmentation().GetSegment(name).SetColor(*color)
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        slicer.modules.segmentations.logic().ExportAllSegmentsToLabelmapNode(segmentation, labels, 0)
        volume.CreateDefaultDisplayNodes()
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(scene)
        view = logic.AddSliceNode(Path(path).stem)
        view.SetOrientationToAxial()
        view.SetDimensions(SIDE, SIDE, 1)
        shown = logic.GetSliceCompositeNode()
        shown.SetBackgroundVolumeID(volume.GetID())
        shown.SetLabelVolumeID(labels.GetID())
        shown.SetLabelOpacity(0.5)
        logic.FitSliceToBackground(SIDE, SIDE)
        place = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(place)
        logic.SetSliceOffset(place.MultiplyPoint([0, 0, number, 1])[2])
        logic.UpdatePipeline()
        logic.GetBlend().Update()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(path)
        writer.SetInputData(logic.GetBlend().GetOutput())
        writer.Write()
        scene.RemoveNode(labels)

    def segments(self) -> dict[str, np.ndarray]:
        """Voxels of each segment, on the volume's grid."""
        node, volume = self.widget._segmentNode, self.widget._volumeNode
        if node is None:
            return {}
        found = {}
        for identity in node.GetSegmentation().GetSegmentIDs():
            values = slicer.util.arrayFromSegmentBinaryLabelmap(node, identity, volume)
            shape = slicer.util.arrayFromVolume(volume).shape
            full = np.zeros(shape, np.uint8) if values is None else values
            found[node.GetSegmentation().GetSegment(identity).GetName()] = full.transpose(2, 1, 0) > 0
        return found


def main(extension: str, address: str, folder: str) -> None:
    desk = Desk(Path(extension), address)
    for number, step in enumerate(json.load(sys.stdin)):
        getattr(desk, step.pop("do"))(**step)
        np.savez(Path(folder) / f"{number}.npz", **desk.segments())
    print(json.dumps({"messages": slicer_window.MESSAGES, "requests": desk.requests}))


if __name__ == "__main__":
    main(*sys.argv[1:])
