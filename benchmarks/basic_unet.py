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

"""What MONAI's BasicUNet reaches on the demo's phantoms in the time that the demo's training took.

``python benchmarks/basic_unet.py`` trains one binary BasicUNet for each structure, each for its share of the time, on
the training images that hold the structure, and scores it on the unseen images that hold it. With ``--shared`` it
trains one network for all structures, for the whole time. The figures of ``demo/report.json`` stand beside them.

The comparison is not of equals: a BasicUNet of a structure never has to read which one is wanted, and the table only
holds images where it is there. What it paints where it is not is printed below.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from scoring import BoolMask, Case, print_table, read_cases, score
from torch import nn

from monai_sa2va.data.phantoms import LABEL_VALUES
from monai_sa2va.errors import ConfigError, DataError, Sa2VAError
from monai_sa2va.transforms.grounding_image import GroundingImage

__all__ = ["FEATURES", "demo_report", "fit", "one_for_all", "one_per_structure", "predict", "summarise", "to_inputs"]

FEATURES = (16, 16, 32, 64, 128, 16)
"""Channels of BasicUNet's levels: half of its default, 0.5 M parameters, so that its minute holds enough steps."""

BATCH_SIZE, LEARNING_RATE = 8, 2e-3
_NOTE = """
The BasicUNet of a structure learns from images that hold it and is scored on images that hold it. It is never asked
about another structure; the table above says what it paints where its own is missing. Sa2VA learns all names from the
same images in one network; its Dice, too, is that of structures that are there."""
_VISIBLE = 30  # pixels; the smallest structure of a phantom of 128 x 128 has as many


def to_inputs(cases: Sequence[Case]) -> torch.Tensor:
    """Pictures (N, 3, H, W) float32 at their own size, normalised as SAM2's are.

    Raises:
        DataError: when there is no picture, or they differ in size or are not square.
    """
    shapes = {case.picture.shape for case in cases}
    if len(shapes) != 1 or len({*next(iter(shapes))[:2]}) != 1:
        raise DataError(f"the pictures have the shapes {sorted(shapes)}; give square ones of one size")
    normalise = GroundingImage(next(iter(shapes))[0], round_constants_to_bf16=False)
    return torch.stack([normalise(case.picture) for case in cases])


def fit(
    network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, loss: nn.Module, seconds: float, seed: int
) -> int:
    """Train for a given time: AdamW, its learning rate following a cosine to 0 over that time.

    Args:
        network: changed in place.
        inputs: (N, 3, H, W) float32.
        targets: (N, 1, H, W) float32.
        loss: of logits and targets.
        seconds: of wall clock; one step at least is taken.
        seed: of the order of images.

    Returns:
        Number of steps.
    """
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    steps, start, order = 0, time.perf_counter(), torch.empty(0, dtype=torch.long)
    while (passed := (time.perf_counter() - start) / seconds) < 1 or not steps:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * min(passed, 1)))
        if not len(order):
            order = torch.randperm(len(inputs), generator=generator)
        chosen, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        optimizer.zero_grad()
        loss(network(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
        steps += 1
    network.eval()
    return steps


def predict(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Logits (N, C, H, W) of inputs (N, 3, H, W)."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in inputs.split(BATCH_SIZE)])


def one_per_structure(
    training: Sequence[Case], unseen: Sequence[Case], seconds: float, features: Sequence[int] = FEATURES, seed: int = 0
) -> dict[str, Any]:
    """Train a binary BasicUNet for each structure and score it on the unseen images that hold it.

    Args:
        training: images that it learns from; for each structure those that hold it.
        unseen: images that it is scored on.
        seconds: of training for all networks together.
        features: channels of BasicUNet's levels.
        seed: of initial weights and order.

    Returns:
        What :func:`summarise` makes of the masks, and ``steps`` of all networks together.

    Raises:
        DataError: when no training image holds a structure that is scored.
    """
    names = sorted({name for case in unseen for name in case.masks})
    inputs, tests = to_inputs(training), to_inputs(unseen)
    found: list[dict[str, BoolMask]] = [{} for _ in unseen]
    steps = 0
    for number, name in enumerate(names):
        own = [i for i, case in enumerate(training) if name in case.masks]
        if not own:
            raise DataError(f"no training image holds the structure {name!r}; give more training images")
        truth = torch.from_numpy(np.stack([training[i].masks[name] for i in own]))[:, None].float()
        torch.manual_seed(seed + number)
        network = BasicUNet(2, 3, 1, features)
        steps += fit(network, inputs[own], truth, DiceCELoss(sigmoid=True), seconds / len(names), seed)
        for masks, logits in zip(found, predict(network, tests), strict=True):
            masks[name] = (logits[0] > 0).numpy()
    return {**summarise(unseen, found), "steps": steps}


def one_for_all(
    training: Sequence[Case], unseen: Sequence[Case], seconds: float, features: Sequence[int] = FEATURES, seed: int = 0
) -> dict[str, Any]:
    """Train one BasicUNet with a class for each structure; arguments and result as of :func:`one_per_structure`."""
    names = sorted({name for case in unseen for name in case.masks})
    inputs, tests = to_inputs(training), to_inputs(unseen)
    torch.manual_seed(seed)
    network = BasicUNet(2, 3, len(LABEL_VALUES) + 1, features)
    labels = torch.zeros(len(training), 1, *inputs.shape[2:])
    for label, case in zip(labels, training, strict=True):
        for name, mask in case.masks.items():
            label[0][torch.from_numpy(mask)] = LABEL_VALUES[name]
    # over the batch, as most images lack most structures
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    steps = fit(network, inputs, labels, loss, seconds, seed)
    classes = predict(network, tests).argmax(1).numpy()
    found = [{name: image == LABEL_VALUES[name] for name in names} for image in classes]
    return {**summarise(unseen, found), "steps": steps}


def summarise(cases: Sequence[Case], found: Sequence[Mapping[str, BoolMask]]) -> dict[str, Any]:
    """Score masks of every structure on every image.

    Args:
        cases: the images.
        found: a mask (H, W) of each structure, there or not, by name; one mapping an image.

    Returns:
        ``mean_dice`` over structures and ``by_prompt``: the number ``n`` of images that hold the structure and their
        mean ``dice``; and of the ``images_without`` the share that is ``painted`` (more than 30 pixels) and the mean
        share of their ``area`` that is.
    """
    present = score(
        (name, masks[name], truth)
        for case, masks in zip(cases, found, strict=True)
        for name, truth in case.masks.items()
    )
    by_prompt: dict[str, Any] = {}
    for name, dice in present.by_name.items():
        absent = [masks[name] for case, masks in zip(cases, found, strict=True) if name not in case.masks]
        by_prompt[name] = {
            "n": present.counts[name],
            "dice": dice,
            "images_without": len(absent),
            "painted": float(np.mean([mask.sum() > _VISIBLE for mask in absent])) if absent else None,
            "area": float(np.mean([mask.mean() for mask in absent])) if absent else None,
        }
    return {"mean_dice": present.mean, "by_prompt": by_prompt}


def demo_report(path: Path) -> dict[str, Any]:
    """What ``benchmarks/demo_report.py`` wrote.

    Raises:
        DataError: when it isn't there or is no report.
    """
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        report["by_prompt"], report["mean_dice"], report["training_seconds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no report of the demo ({error}); run 'make demo'") from error
    return report


def compare(demo: Path, report_file: Path, seconds: float | None, shared: bool, features: Sequence[int]) -> None:
    """Train, print the tables, and write ``basic_unet.json`` into the folder of the demo."""
    report = demo_report(report_file)
    seconds = report["training_seconds"] if seconds is None else seconds
    if seconds is None or seconds <= 0:
        raise ConfigError(f"seconds is {seconds}; give --seconds, as {report_file} has no training_seconds")
    training = read_cases(demo / "phantoms" / "datalist.json", "training")
    unseen = read_cases(demo / "unseen" / "datalist.json", "testing")
    results = {"per_structure": one_per_structure(training, unseen, seconds, features)}
    if shared:
        results["shared"] = one_for_all(training, unseen, seconds, features)
    titles = {"per_structure": "BasicUNet each", "shared": "one BasicUNet"}
    print_table(
        f"Dice on {len(unseen)} unseen phantoms after {seconds:.0f} s of training on {len(training)}",
        ["prompt", "images", "Sa2VA", *(titles[kind] for kind in results)],
        [
            [
                name,
                row["n"],
                report["by_prompt"].get(name, {}).get("dice"),
                *(result["by_prompt"][name]["dice"] for result in results.values()),
            ]
            for name, row in results["per_structure"]["by_prompt"].items()
        ],
        ["mean over prompts", "", report["mean_dice"], *(result["mean_dice"] for result in results.values())],
    )
    for kind, result in results.items():
        print_table(
            f"{titles[kind]}, {result['steps']} steps in all, on images without the structure",
            ["structure", "images", f"more than {_VISIBLE} pixels painted", "mean area painted"],
            [[name, row["images_without"], row["painted"], row["area"]] for name, row in result["by_prompt"].items()],
        )
    print(_NOTE)
    output = {"seconds": seconds, "threads": torch.get_num_threads(), "features": list(features), **results}
    (demo / "basic_unet.json").write_text(json.dumps(output, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of the demo")
    parser.add_argument("--report", type=Path, help="Sa2VA's figures; report.json of the demo by default")
    parser.add_argument("--seconds", type=float, help="training, all networks together; the demo's by default")
    parser.add_argument("--shared", action="store_true", help="also train one network for all structures")
    parser.add_argument("--features", type=int, nargs=6, default=FEATURES, help="channels of BasicUNet's levels")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of PyTorch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = arguments.report or arguments.demo / "report.json"
    try:
        compare(arguments.demo, report, arguments.seconds, arguments.shared, arguments.features)
    except Sa2VAError as error:
        sys.exit(f"basic_unet.py: {error}")


if __name__ == "__main__":
    main()
