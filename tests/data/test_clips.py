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
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data import Dataset
from monai.transforms import Compose, RandomizableTransform

from monai_sa2va.data.clips import MixedDataset, MixedOrder, clip_entries
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.errors import ConfigError, DatalistError


class Draw(RandomizableTransform):
    """What it is given, and a number by chance."""

    def __call__(self, data: str) -> tuple[str, float]:
        return data, float(self.R.random())


def mixed(images: int = 7, volumes: int = 3) -> MixedDataset:
    parts = [[f"{kind}{number}" for number in range(count)] for kind, count in (("i", images), ("v", volumes))]
    return MixedDataset(*(Dataset(part, Compose([Draw()])) for part in parts))


def epoch(order: MixedOrder, number: int = 0) -> list[int]:
    order.set_epoch(number)
    return list(order)


def batches(indices: list[int], size: int) -> list[list[int]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]


@given(
    images=st.integers(1, 40),
    volumes=st.integers(1, 9),
    size=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0]),
    number=st.integers(0, 3),
    processes=st.integers(1, 3),
)
def test_each_batch_is_of_one_kind_and_shares_hold(images, volumes, size, share, number, processes):
    dataset = mixed(images, volumes)
    orders = [MixedOrder(dataset, size, share, 4, processes, rank) for rank in range(processes)]
    taken = [epoch(order, number) for order in orders]
    assert {len(one) for one in taken} == {len(order) for order in orders}
    kinds = [[{index >= images for index in batch} for batch in batches(one, size)] for one in taken]
    assert all(len(kind) == 1 for one in kinds for kind in one)
    assert all(one == kinds[0] for one in kinds)  # at the same time on all processes
    assert all(len(batch) == size for one in taken for batch in batches(one, size)[:-1])
    clips = [index for one in taken for index in one if index >= images]
    pictures = [index for one in taken for index in one if index < images]
    assert len(set(clips)) == len(clips)  # by a chance of its own each
    held = np.bincount([(index - images) % volumes for index in clips], minlength=volumes)
    assert held.max() - held.min() <= 1
    if share < 1:
        assert set(pictures) == set(range(images))
        assert len(pictures) - images < processes
        n_clips, n_images = len(clips) // (size * processes), -(-len(pictures) // (size * processes))
        if share:
            assert n_clips >= 1
            assert n_clips == 1 or abs(n_clips - n_images * share / (1 - share)) <= 0.5
        else:
            assert n_clips == 0
    else:
        assert not pictures


def test_counts_of_an_epoch():
    # 7 images are 4 batches of two; 4 * 0.3 / 0.7 = 1.7 makes 2 batches of clips
    order = MixedOrder(mixed(), 2, 0.3, seed=1)
    assert len(order) == 7 + 4
    first = epoch(order)
    assert sorted(index for index in first if index < 7) == list(range(7))
    assert sorted((index - 7) % 3 for index in first if index >= 7)[1:] in ([0, 1, 2], [1, 1, 2], [1, 2, 2])
    assert epoch(order) == first
    assert epoch(order, 1) != first
    assert epoch(MixedOrder(mixed(), 2, 0.3, seed=2)) != first
    assert len(MixedOrder(mixed(), 2, 1.0)) == 4


def test_clips_stand_behind_images_and_begin_anew():
    dataset = mixed()
    assert len(dataset) == 10
    assert [dataset[index][0] for index in (0, 6, 7, 9, 10, 12, 13)] == ["i0", "i6", "v0", "v2", "v0", "v2", "v0"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_enters_an_epoch_anywhere_and_gives_the_same(workers: int):
    def loader(num_workers: int) -> Sa2VADataLoader:
        dataset = mixed()
        sampler = MixedOrder(dataset, 2, 0.5, seed=3)
        return Sa2VADataLoader(dataset, 2, num_workers, seed=3, sampler=sampler, shuffle=False, collate_fn=list)

    def run(epoch: int, first: int, num_workers: int = 0) -> list[Any]:
        made = loader(num_workers)
        made.set_epoch(epoch, first)
        return list(made)

    whole = run(1, 0)
    assert len(whole) == len(loader(0)) == 8
    assert all(len({name[0] for name, _ in batch}) == 1 for batch in whole)
    clips = [sample for batch in whole for sample in batch if sample[0][0] == "v"]
    assert len(clips) == 8
    assert len({draw for _, draw in clips}) == 8  # a volume's clips differ
    assert run(1, 3, workers) == whole[3:]
    assert run(2, 0) != whole


@pytest.mark.parametrize(
    ("settings", "words"), [({"clip_share": 1.5}, "clip_share is 1.5"), ({"batch_size": 0}, "batch_size is 0")]
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        MixedOrder(mixed(), **settings)


def save(folder: Path, name: str, shape: tuple[int, ...]) -> str:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([1.0, 1.0, 3.0, 1.0])), folder / name)
    return name


def datalist(folder: Path, entries: list[dict[str, Any]], name: str = "datalist.json") -> Path:
    (folder / name).write_text(json.dumps({"training": entries}))
    return folder / name


def test_volumes_with_enough_slices_are_kept(tmp_path, caplog):
    long, short, flat = (
        save(tmp_path, f"{n}.nii.gz", s) for n, s in (("l", (4, 5, 6)), ("s", (4, 5, 3)), ("f", (4, 5)))
    )
    prompts = {"1": ["vessels"]}
    entries = [{"image": name, "label": name, "prompts": prompts} for name in (long, short, flat)]
    one, two = datalist(tmp_path, entries), datalist(tmp_path, [{**entries[0], "prompts": {}}, entries[0]], "two.json")
    kept = clip_entries([one, two], length=4)
    assert [Path(entry["image"]).name for entry in kept] == ["l.nii.gz", "l.nii.gz"]
    assert "2 volumes have fewer than 4 slices, or no prompts, and give no clips, as s.nii.gz" in caplog.text
    assert len(clip_entries(str(one), length=3)) == 2
    # slices along another axis
    assert len(clip_entries(one, axis="coronal", length=5)) == 2
    with pytest.raises(DatalistError, match=r"section 'validation' of .*no volume or cine with prompts and at least 4"):
        clip_entries(one, "validation")
    with pytest.raises(DatalistError, match="at least 7 slices; make some by"):
        clip_entries(one, length=7)


def test_what_can_t_be_a_clip_is_named(tmp_path):
    film, image = save(tmp_path, "film.nii.gz", (4, 5, 1, 9)), save(tmp_path, "l.nii.gz", (4, 5, 6))
    prompts = {"1": ["vessels"]}
    with pytest.raises(DatalistError, match=r"film.nii.gz: has 4 axes and an orientation; .* along the third axis"):
        clip_entries(datalist(tmp_path, [{"image": film, "label": film, "prompts": prompts}]))
    with pytest.raises(DatalistError, match=r"l.nii.gz: give one label file, not \["):
        clip_entries(datalist(tmp_path, [{"image": image, "label": [image, image], "prompts": prompts}]))
