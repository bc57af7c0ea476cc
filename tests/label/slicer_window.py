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

"""As much of Qt, of ctk and of Slicer's application as the MONAI Label extension touches, to run without Slicer.

MRML, VTK, segmentations and their files are Slicer's own, from ``slicer-core``; nothing is drawn here.
"""

# ruff: noqa: N802, N815 - Qt's names

from __future__ import annotations

import inspect
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from xml.etree import ElementTree

import SimpleITK
import slicer
import slicer.util

MESSAGES: list[str] = []
"""What the extension showed to its user in windows of their own."""

SETTINGS: dict[str, Any] = {}
"""Slicer's settings."""


class Widget(MagicMock):
    """Something that is only drawn."""


class CheckBox(Widget):
    def setChecked(self, checked: bool) -> None:
        self.checked = checked


class ComboBox:
    """A list of texts of which one is chosen, and which tells when another one is."""

    def __init__(self) -> None:
        self._items: list[tuple[str, Any]] = []
        self._index, self._typed, self._blocked = -1, "", False
        self._slots: list[Callable[..., Any]] = []

    @property
    def count(self) -> int:
        return len(self._items)

    @property
    def currentIndex(self) -> int:
        return self._index

    @property
    def currentText(self) -> str:
        return self._typed or self.itemText(self._index)

    @currentText.setter
    def currentText(self, text: str) -> None:
        self.setCurrentText(text)

    def setCurrentText(self, text: str | None) -> None:
        place = self.findText(text or "")
        self._typed = "" if place >= 0 else text or ""
        if place >= 0:
            self.setCurrentIndex(place)

    def setCurrentIndex(self, index: int) -> None:
        changed = index != self._index
        self._index = index
        if changed and not self._blocked:
            for slot in self._slots:
                # PythonQt hands over as much as a slot takes
                slot(*([index] if inspect.signature(slot).parameters else []))

    def addItem(self, *item: Any) -> None:
        texts = [part for part in item if isinstance(part, str)]
        self._items.append((texts[0], texts[1:]))
        if len(self._items) == 1:
            self.setCurrentIndex(0)

    def addItems(self, texts: list[str]) -> None:
        for text in texts:
            self.addItem(text)

    def clear(self) -> None:
        self._items.clear()
        self._typed = ""
        self.setCurrentIndex(-1)

    def itemText(self, index: int) -> str:
        return self._items[index][0] if 0 <= index < len(self._items) else ""

    def findText(self, text: str) -> int:
        return next((place for place, item in enumerate(self._items) if item[0] == text), -1)

    def blockSignals(self, blocked: bool) -> bool:
        self._blocked, before = blocked, self._blocked
        return before

    def connect(self, signal: str, slot: Callable[..., Any]) -> None:
        assert signal == "currentIndexChanged(int)"
        self._slots.append(slot)

    def setItemData(self, *data: Any) -> None: ...

    def setToolTip(self, text: str) -> None: ...

    def setEnabled(self, enabled: bool) -> None: ...

    def lineEdit(self) -> Widget:
        return Widget()


class TableItem:
    def __init__(self, text: str) -> None:
        self._text = text

    def text(self) -> str:
        return self._text

    def setText(self, text: str) -> None:
        self._text = text

    def flags(self) -> int:
        return 0

    def setFlags(self, flags: int) -> None: ...


class Table(Widget):
    """Rows of a name and either a text or a widget."""

    def clear(self) -> None:
        self.cells: dict[tuple[int, int], Any] = {}

    def setRowCount(self, count: int) -> None:
        self.rowCount = count

    def item(self, row: int, column: int) -> TableItem | None:
        cell = self.cells[row, column]
        return cell if isinstance(cell, TableItem) else None

    def cellWidget(self, row: int, column: int) -> Any:
        return self.cells[row, column]

    def setItem(self, row: int, column: int, item: TableItem) -> None:
        self.cells[row, column] = item

    setCellWidget = setItem


class PlaceWidget(Widget):
    """What markups are placed with."""

    node: Any = None
    placeModeEnabled = False

    def setCurrentNode(self, node: Any) -> None:
        self.node = node

    def currentNode(self) -> Any:
        return self.node


class Dialog:
    def __init__(self, *parts: Any) -> None: ...


class Settings:
    def value(self, key: str, default: Any = None) -> Any:
        return SETTINGS.get(key, default)

    def setValue(self, key: str, value: Any) -> None:
        SETTINGS[key] = value

    def contains(self, key: str) -> bool:
        return key in SETTINGS


WIDGETS = {
    "QComboBox": ComboBox,
    "ctkComboBox": ComboBox,
    "QCheckBox": CheckBox,
    "QTableWidget": Table,
    "qSlicerMarkupsPlaceWidget": PlaceWidget,
}


class Window(Widget):
    """The widgets that a ``.ui`` file names."""

    def fill(self, path: str) -> Window:
        self.named: dict[str, Any] = {}
        for element in ElementTree.parse(path).iter("widget"):
            widget = WIDGETS.get(element.attrib["class"], Widget)()
            checked = element.find("property[@name='checked']/bool")
            if isinstance(widget, CheckBox):
                widget.checked = checked is not None and checked.text == "true"
            self.named[element.attrib["name"]] = widget
        return self


class Volumes:
    """Reads and writes volumes by Slicer's own storage node, as Slicer's input and output manager has it done."""

    def fileType(self, path: str) -> str:
        return "VolumeFile"

    fileWriterFileType = fileType

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        assert kind == "VolumeFile"
        labels = properties.get("labelmap", False)
        path = Path(properties["fileName"])
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode", path.name.partition(".")[0]
        )
        loaded.AddItem(node)
        return bool(self._storage(path).ReadData(node))

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any) -> bool:
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        return bool(self._storage(Path(properties["fileName"])).WriteData(node))

    def _storage(self, path: Path) -> Any:
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(path))
        return storage


class Logic:
    """Base of a scripted module's logic."""

    def __init__(self, parent: Any = None) -> None: ...

    def getParameterNode(self) -> Any:
        tag = "MONAILabel"
        found = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLScriptedModuleNode")
        if found is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(tag)
            found = slicer.mrmlScene.AddNode(node)
        return found


def install(extension: Path) -> ModuleType:
    """Make a scene, put stand-ins where the extension looks for Slicer's application, and import it.

    Args:
        extension: folder of ``MONAILabel.py``.
    """
    slicer.mrmlScene = slicer.vtkMRMLScene()
    # each adds its kinds of nodes to the scene: the selection that markups ask for, tables of colours, and so on
    logics = [slicer.vtkMRMLApplicationLogic(), slicer.vtkMRMLColorLogic(), slicer.vtkSlicerMarkupsLogic()]
    logics.append(slicer.vtkSlicerSegmentationsModuleLogic())
    for logic in logics:
        logic.SetMRMLScene(slicer.mrmlScene)
    slicer.modules = SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logics[-1]))
    volumes = Volumes()
    slicer.app = Widget(coreIOManager=lambda: volumes, temporaryPath=tempfile.gettempdir())

    class ModuleWidget:
        def __init__(self, parent: Any = None) -> None:
            self.parent, self.layout = parent, Widget()

        def setup(self) -> None: ...

        def resourcePath(self, name: str) -> str:
            return str(extension / "Resources" / name)

    _module("ctk", ctkSettingsPanel=Dialog)
    _module(
        "qt",
        QComboBox=ComboBox,
        QCheckBox=CheckBox,
        QTableWidgetItem=TableItem,
        QDialog=Dialog,
        QSettings=Settings,
        Qt=Widget(ItemIsEditable=2),
        **{name: Widget() for name in ("QApplication", "QIcon", "QTimer", "QInputDialog", "QLineEdit")},
    )
    _module("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    _module(
        "slicer.ScriptedLoadableModule",
        ScriptedLoadableModule=Dialog,
        ScriptedLoadableModuleWidget=ModuleWidget,
        ScriptedLoadableModuleLogic=Logic,
        ScriptedLoadableModuleTest=Dialog,
    )
    _module("sitkUtils", PushVolumeToSlicer=_push)
    _module("SampleData", SampleDataLogic=lambda: SimpleNamespace(downloadFromURL=_download))
    _module("vtkSegmentationCore", vtkOrientedImageDataResample=slicer.vtkOrientedImageDataResample)
    util = slicer.util
    util.loadUI = lambda path: Window().fill(path)
    util.childWidgetVariables = lambda window: SimpleNamespace(**window.named)
    util.tempDirectory = lambda key: tempfile.mkdtemp(prefix=key)
    util.createProgressDialog = lambda **named: Widget()
    util.infoDisplay = lambda text, **named: None
    util.errorDisplay = util.warningDisplay = lambda text, **named: MESSAGES.append(
        " ".join(f"{text} {named.get('detailedText', '')}".split())
    )
    util.confirmOkCancelDisplay = lambda text, **named: True
    sys.path.insert(0, str(extension))
    import MONAILabel

    found: ModuleType = MONAILabel
    return found


def _module(name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    module.__all__ = list(members)  # type: ignore[attr-defined]
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)


def _push(image: SimpleITK.Image, target: Any, className: str) -> Any:
    """Slicer hands the voxels over in memory; here they go through a file and Slicer's own reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nrrd"
        SimpleITK.WriteImage(image, str(path))
        return slicer.util.loadVolume(path, {"labelmap": className == "vtkMRMLLabelMapVolumeNode"})


def _download(nodeNames: str, fileNames: str, uris: str, checksums: str | None) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(fileNames).name
        urllib.request.urlretrieve(uris, path)
        node = slicer.util.loadVolume(path, {})
    node.SetName(nodeNames)
    return [node]
