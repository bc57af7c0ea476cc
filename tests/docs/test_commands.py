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

"""What README and docs say is tried: commands are run, links followed, options and keys looked up in the code."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file

from monai_sa2va import errors
from monai_sa2va.cli.main import VERBS, app
from monai_sa2va.data.datalist import SECTIONS, load_datalist
from monai_sa2va.data.phantoms import LABEL_VALUES, make_phantom
from monai_sa2va.networks.sa2va import Sa2VA

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "THIRD_PARTY.md",
    "bundle/docs/README.md",
    *sorted(page.relative_to(REPOSITORY).as_posix() for page in (REPOSITORY / "docs").rglob("*.md")),
]
DEMO_PICTURE = "docs/images/demo.png"
"""Made by `make demo`, so it may be missing from a checkout that was never shown one."""

_FENCE = re.compile(r"(?:<!-- test(?P<swap>[^\n]*)-->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
_SWAP = re.compile(r'"([^"]+)" as "([^"]+)"')
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_VERB_USE = re.compile(r"monai-sa2va ([a-z]+)([^`\n]*)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    tested: bool

    @property
    def command_lines(self) -> list[str]:
        """Its lines, continued ones joined."""
        return self.text.replace("\\\n", " ").splitlines()


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Fenced blocks; of tested ones, arguments that the comment before them names are swapped for smaller ones."""
    found = []
    for match in _FENCE.finditer(read(page)):
        text, swap = match["text"], match["swap"]
        for old, new in _SWAP.findall(swap or ""):
            assert old in text, f"{page}: the comment swaps {old!r}, which the block doesn't hold"
            text = text.replace(old, new)
        found.append(Block(page, match["language"], text, swap is not None))
    return found


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
TESTED = {page: [block for block in blocks(page) if block.tested] for page in PAGES}
SHELL_LINES = [(b.page, line) for b in ALL_BLOCKS if b.language == "bash" for line in b.command_lines]


# --- commands that are run


@pytest.fixture
def workplace(tmp_path: Path) -> dict[str, str]:
    """A folder with the bundle's files and someone's photos, and an environment whose commands are this checkout's."""
    shutil.copytree(REPOSITORY / "bundle" / "configs", tmp_path / "bundle" / "configs")
    for part in ("images", "masks"):
        (tmp_path / "photos" / part).mkdir(parents=True)
    for seed in range(6):
        phantom = make_phantom(seed, "fundus", 64)
        Image.fromarray(phantom.image).save(tmp_path / "photos" / "images" / f"p{seed:02d}.png")
        mask = (phantom.label == LABEL_VALUES["vessels"]).astype(np.uint8) * 255
        Image.fromarray(mask).save(tmp_path / "photos" / "masks" / f"p{seed:02d}.png")
    commands = tmp_path / ".commands"
    commands.mkdir()
    for name, arguments in (("python", ""), ("monai-sa2va", "-m monai_sa2va ")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "MONAI_SA2VA_BUNDLE"}
    environment |= {
        "PATH": f"{commands}{os.pathsep}{environment['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return environment


def run_page(page: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the tested blocks of a page one after another in one folder."""
    for block in TESTED[page]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{page}:\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def test_the_pages_with_tested_commands_are_those_below():
    assert {page for page, found in TESTED.items() if found} == {
        "README.md",
        "docs/tutorial/first-run.md",
        "docs/how-to/own-data.md",
        "docs/how-to/train.md",
        "docs/how-to/bring-a-checkpoint.md",
        "docs/how-to/fine-tune.md",
        "docs/how-to/dicom.md",
        "docs/how-to/batch.md",
        "docs/how-to/volumes.md",
        "docs/how-to/verify.md",
    }


def test_commands_of_the_first_run(tmp_path, workplace):
    run_page("docs/tutorial/first-run.md", tmp_path, workplace)
    assert (tmp_path / "sample/images/fundus_000000.png").is_file()
    assert (tmp_path / "sample/labels/fundus_000000.png").is_file()


def test_commands_for_own_data(tmp_path, workplace):
    run_page("docs/how-to/own-data.md", tmp_path, workplace)
    binary = [entry for section in SECTIONS for entry in load_datalist(tmp_path / "photos/datalist.json", section)]
    assert len(binary) == 6
    # 0/255 masks: the value is the one in the files
    assert binary[0]["prompts"] == {"255": ["vessels", "blood vessels"]}
    maps = load_datalist(tmp_path / "sample/own.json", "training")
    assert {name for entry in maps for phrases in entry["prompts"].values() for name in phrases} == {
        *("vessels", "blood vessels", "lesion", "optic disc", "optic nerve head", "macula")
    }


@pytest.mark.slow
def test_commands_of_the_readme(tmp_path, workplace):
    run_page("README.md", tmp_path, workplace)
    images = sorted(path.stem for path in (tmp_path / "photos/images").iterdir())
    assert sorted(path.name for path in (tmp_path / "results").iterdir() if path.is_dir()) == images
    for name in images:
        mask = np.array(Image.open(tmp_path / "results" / name / "vessels.png"))
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) <= {0, 255}
        # the files that docs/how-to/segment.md lists
        assert {"vessels.nii.gz", "overview.png", "report.json"} <= set(os.listdir(tmp_path / "results" / name))
    assert (tmp_path / "results/summary.csv").read_text().count("done") == len(images)
    assert (tmp_path / "results/objects.csv").is_file()


@pytest.mark.slow
def test_commands_for_training(tmp_path, workplace):
    run_page("docs/how-to/train.md", tmp_path, workplace)
    assert list((tmp_path / "runs/first").glob("resume_*.pt"))


@pytest.mark.slow
def test_commands_for_a_checkpoint(tmp_path, workplace, oracle_dir, monkeypatch):
    shutil.copytree(oracle_dir / "internvl_qwen2", tmp_path / "Sa2VA-1B")
    run_page("docs/how-to/bring-a-checkpoint.md", tmp_path, workplace)
    assert (tmp_path / "results/p00/vessels.png").is_file()
    came, handed = (load_file(tmp_path / folder / "model.safetensors") for folder in ("Sa2VA-1B", "handed-on"))
    assert {key: value.dtype for key, value in came.items()} == {key: value.dtype for key, value in handed.items()}
    assert all(torch.equal(came[key], handed[key]) for key in came)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shapes = []
    for block in blocks("docs/how-to/bring-a-checkpoint.md"):
        if block.language == "python":
            # random weights go on and on
            code = block.text.replace('vessels.")\n', 'vessels.", answer="Sure, [SEG].")\n')
            exec(code, names)
            shapes.append(names["found"]["prediction_masks"][0].shape)
    assert shapes == [(1, 64, 64), (8, 64, 64), (8, 64, 64)]
    assert names["exact"].first_frames_inferer.n_context == 5


@pytest.mark.slow
def test_commands_for_fine_tuning(tmp_path, workplace):
    pytest.importorskip("peft", reason="peft is not installed")
    network = Sa2VA("tiny", seed=0)
    info = {"config": network.config.to_dict(), "window": "auto", "axis": "auto"}
    torch.save({"model": network.state_dict(), "info": info}, tmp_path / "base.pt")
    run_page("docs/how-to/fine-tune.md", tmp_path, workplace)
    assert (tmp_path / "tuned.safetensors").is_file()
    assert (tmp_path / "tuned_peft" / "adapter_config.json").is_file()
    first = next((tmp_path / "results").glob("*/nodule.png"))
    second = tmp_path / "merged" / first.relative_to(tmp_path / "results")
    assert (np.array(Image.open(first)) == np.array(Image.open(second))).all()


@pytest.mark.slow
def test_commands_for_dicom_series(tmp_path, workplace):
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    (tmp_path / "bundle" / "models").symlink_to(REPOSITORY / "bundle" / "models")
    run_page("docs/how-to/dicom.md", tmp_path, workplace)
    assert len(list((tmp_path / "results").glob("*/*/seg.dcm"))) == 1

    (tmp_path / "scans" / "images").rename(tmp_path / "archive")
    shutil.rmtree(tmp_path / "results")
    rules = next(b.text for b in blocks("docs/how-to/batch.md") if b.language == "yaml")
    (tmp_path / "rules.yaml").write_text(rules, encoding="utf-8")
    run_page("docs/how-to/batch.md", tmp_path, workplace)
    (report,) = (tmp_path / "results").glob("*/*/report.json")
    assert json.loads(report.read_text())["series"]["modality"] == "CT"

    (tmp_path / "ct").mkdir()
    for series in list((tmp_path / "archive").iterdir()):
        series.rename(tmp_path / "ct" / series.name)
    (tmp_path / "ct").rename(tmp_path / "archive" / "ct")
    shutil.make_archive(str(tmp_path / "archive" / "mr"), "zip", tmp_path / "archive" / "ct")
    run_page("docs/how-to/verify.md", tmp_path, workplace)


@pytest.mark.slow
def test_commands_for_volumes(tmp_path, workplace):
    (tmp_path / "bundle" / "models").symlink_to(REPOSITORY / "bundle" / "models")
    (tmp_path / "scans").mkdir()
    for name, shape in (("ct", (64, 64, 8)), ("mr", (24, 24, 24))):
        volume = np.random.default_rng(0).integers(0, 255, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "scans" / f"{name}.nii.gz")
    Image.fromarray(make_phantom(0, "fundus", 64).image).save(tmp_path / "photos" / "fundus.png")
    run_page("docs/how-to/volumes.md", tmp_path, workplace)
    found = {path.parent.name: nib.load(path).shape for path in (tmp_path / "results").glob("*/*.nii.gz")}
    assert found == {"ct": (64, 64, 8), "mr": (24, 24, 24), "fundus": (64, 64)}


@pytest.mark.slow
def test_code_for_corrections(tmp_path, workplace, monkeypatch):
    (tmp_path / "bundle" / "models").mkdir()
    torch.save({"model": Sa2VA("tiny", seed=0).state_dict()}, tmp_path / "bundle" / "models" / "model.pt")
    Image.fromarray(make_phantom(0, "fundus", 208).image).save(tmp_path / "eye.png")
    scan = np.random.default_rng(0).integers(0, 255, (84, 96, 46)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONAI_SA2VA_BUNDLE", raising=False)
    names: dict = {}
    shapes = []
    for block in blocks("docs/how-to/correct.md"):
        assert block.language == "python"
        exec(block.text, names)
        shapes += [names["found"].masks.shape, names.get("corrected", names["found"]).masks.shape]
    assert names["better"].masks.shape == (1, 208, 208)
    assert shapes == [(1, 208, 208)] * 2 + [(1, 46, 96, 84)] * 4
    assert names["better"].labels == ["vessels"]
    assert names["corrected"].labels == ["liver"]


# --- links, options, keys


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (REPOSITORY / page).parent
    for link in _LINK.findall(_FENCE.sub("", read(page))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (folder / target).resolve() if target else REPOSITORY / page
        if path == REPOSITORY / DEMO_PICTURE and not path.exists():
            continue
        assert path.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in _anchors(path), f"{page} links to {link}"


def test_every_page_is_reachable_from_the_index():
    linked = {(REPOSITORY / "docs" / link.partition("#")[0]).resolve() for link in _LINK.findall(read("docs/index.md"))}
    pages = {page.resolve() for page in (REPOSITORY / "docs").rglob("*.md")}
    assert pages - linked == {(REPOSITORY / "docs/index.md").resolve()}


def test_the_picture_of_the_demo_is_in_the_readme():
    assert f"]({DEMO_PICTURE})" in read("README.md")
    if not (REPOSITORY / DEMO_PICTURE).exists():
        pytest.skip(f"{DEMO_PICTURE} is not there; make demo makes it as demo/overview.png")
    with Image.open(REPOSITORY / DEMO_PICTURE) as picture:
        assert min(picture.size) >= 128


def test_verbs_and_options_exist():
    options = {verb: _options(verb) for verb in VERBS}
    uses = [(page, *match.groups()) for page, line in SHELL_LINES for match in _VERB_USE.finditer(line)]
    uses += [(page, *m.groups()) for page in PAGES for m in _VERB_USE.finditer(_inline_code(read(page)))]
    assert {verb for _, verb, _ in uses} >= {"segment", "datalist", "phantoms", "info"}
    for page, verb, rest in uses:
        assert verb in options, f"{page}: monai-sa2va has no verb {verb!r}"
        for option in _OPTION.findall(re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)):
            assert option in options[verb], f"{page}: monai-sa2va {verb} has no {option}"


def test_bundle_overrides_exist():
    runs = [(page, line) for page, line in SHELL_LINES if "monai.bundle run" in line]
    assert len(runs) >= 8
    for page, line in runs:
        words = shlex.split(line)
        first = words.index("run") + 1
        file = words[words.index("--config_file") + 1]
        # an overlay's keys count beside those of what it lies over; a page's own file is none of the bundle's
        names = re.findall(r"bundle/configs/([\w/]+\.json)", file) or re.findall(r"\w+\.json", file)
        config = {key: value for name in names for key, value in json.loads(read(f"bundle/configs/{name}")).items()}
        assert words[first] in config, f"{page}: {file} has no id {words[first]}"
        # these two are of monai.bundle itself
        keys = {word[2:] for word in words[first:] if word.startswith("--")} - {"config_file", "tracking"}
        for key in keys:
            assert key.split("#")[0] in config, f"{page}: {file} has no key {key}"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("docs/how-to/train.md", "train.json"),
        ("docs/how-to/segment.md", "inference.json"),
        ("docs/how-to/evaluate.md", "evaluate.json"),
    ],
)
def test_tables_of_keys_are_those_of_the_configuration(page, name):
    config = json.loads(read(f"bundle/configs/{name}"))
    table = re.search(rf"<!-- table of {name} -->(.*)<!-- /table of {name} -->", read(page), re.DOTALL)[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| [^|]+ \|$", table, re.MULTILINE))
    assert list(rows) == list(config)
    for key, shown in rows.items():
        if key not in ("imports", "train", "validate"):
            assert shown == f"`{_shown(config[key])}`", key


def test_the_datalist_of_the_reference_can_be_read(tmp_path):
    example = next(b.text for b in blocks("docs/reference/datalist.md") if b.language == "json")
    (tmp_path / "datalist.json").write_text(example, encoding="utf-8")
    for name in re.findall(r'"((?:images|labels)/[^"]+)"', example):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    entries = {section: load_datalist(tmp_path / "datalist.json", section) for section in SECTIONS}
    assert {section: len(found) for section, found in entries.items()} == {
        "training": 2,
        "validation": 1,
        "testing": 2,
    }
    assert entries["training"][0]["prompts"] == {"1": ["vessels", "blood vessels"], "2": ["optic disc"]}
    assert len(entries["training"][1]["label"]) == 2


def test_the_table_of_errors_is_complete():
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| `(\w+)` \| `(\w+)` \|", read("docs/reference/errors.md"), re.MULTILINE)
    classes = [getattr(errors, name) for name in errors.__all__]
    assert {(code, name) for code, name, _ in rows} == {(error.code, error.__name__) for error in classes}
    for _, name, parent in rows:
        assert parent in {base.__name__ for base in getattr(errors, name).__mro__[1:]}


def test_the_example_of_an_error_is_what_the_command_says(tmp_path):
    example = next(b.text for b in blocks("docs/reference/errors.md") if b.language == "text")
    command = [sys.executable, "-m", "monai_sa2va", "datalist", "photos/imgs", "photos/masks", "-p", "vessels"]
    done = subprocess.run(
        [*command, "-o", "own.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, example)


def test_json_blocks_are_json():
    found = [block for block in ALL_BLOCKS if block.language == "json"]
    assert len(found) >= 3
    for block in found:
        json.loads(block.text)


# --- architecture


def test_imports_follow_the_rows_of_the_architecture():
    table = re.search(r"<!-- rooms -->(.*)<!-- /rooms -->", read("docs/explanation/architecture.md"), re.DOTALL)[1]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    rank = {room: number for number, row in enumerate(rows) for room in re.findall(r"`(\w+)`", row)}
    package = REPOSITORY / "monai_sa2va"
    for file in sorted(package.rglob("*.py")):
        room = file.relative_to(package).with_suffix("").parts[0]
        if room.startswith("__"):
            continue  # the package's own two files see everything
        assert room in rank, f"{file.name}: docs/explanation/architecture.md has no room {room}"
        for target in _imports(file):
            other = target.split(".")[1] if "." in target else ""
            if other in rank:
                assert rank[other] <= rank[room], f"{room}/{file.name} imports {target} from a row below"


def test_no_module_imports_itself_through_another():
    package = REPOSITORY / "monai_sa2va"
    graph = {}
    for file in package.rglob("*.py"):
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {target for target in _imports(file, top_level=True) if target != name}
    # raises CycleError where there is a cycle
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


# --- helpers


def _anchors(path: Path) -> set[str]:
    """Anchors that headings get: small letters, spaces as hyphens, other signs dropped."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _options(verb: str) -> set[str]:
    function = getattr(import_module(f"monai_sa2va.cli.{verb}"), verb)
    single = typer.Typer()
    single.command()(function)
    parameters = [*typer.main.get_command(single).params, *typer.main.get_command(app).params]
    return {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def _inline_code(text: str) -> str:
    return "\n".join(re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)))


def _shown(value: Any) -> str:
    """A value as the tables show it: expressions as they are, components by their class, the rest as JSON."""
    if isinstance(value, dict):
        return str(value["_target_"]).rsplit(".", maxsplit=1)[-1]
    if isinstance(value, str) and value.startswith("$"):
        return value
    return json.dumps(value)


def _imports(file: Path, top_level: bool = False) -> set[str]:
    """Modules of this package that a file imports, those for type checkers left out."""
    found = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "monai_sa2va":
            found.add(node.module)
        nodes += ast.iter_child_nodes(node)
    return found
