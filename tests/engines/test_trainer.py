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

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver

from monai_sa2va.config import Sa2VAConfig
from monai_sa2va.data.collate import sa2va_collate
from monai_sa2va.data.dataloader import Sa2VADataLoader
from monai_sa2va.data.phantoms import make_phantom
from monai_sa2va.engines.trainer import Sa2VATrainer, move_to
from monai_sa2va.errors import ConfigError, DataError
from monai_sa2va.networks.sa2va import Sa2VA
from monai_sa2va.transforms.sentences import answer_segments

Samples = list[dict[str, Any]]
Gradients = dict[str, torch.Tensor]


class Probe:
    """Handler that keeps the gradients of each step as they are before it, and a value of the engine after it."""

    def __init__(self, network: Sa2VA) -> None:
        self.network = network
        self.gradients: list[Gradients] = []

    def attach(self, engine: Sa2VATrainer) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Sa2VATrainer) -> None:
        if engine.state.batch["window_end"]:
            named = self.network.named_parameters()
            self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def _trainer(network: Sa2VA, samples: Samples, batch_size: int, lr: float = 0.0, **settings: Any) -> Sa2VATrainer:
    optimizer = settings.pop("optimizer", None) or torch.optim.SGD(network.parameters(), lr=lr)
    return Sa2VATrainer(
        device="cpu",
        max_epochs=settings.pop("max_epochs", 1),
        train_data_loader=Sa2VADataLoader(samples, batch_size=batch_size),
        network=network,
        optimizer=optimizer,
        **settings,
    )


def _gradients(config: Sa2VAConfig, samples: Samples, batch_size: int, steps: int) -> list[Gradients]:
    network = Sa2VA(config, seed=0).double()
    probe = Probe(network)
    _trainer(network, samples, batch_size, accumulation_steps=steps, clip_norm=None, train_handlers=[probe]).run()
    return probe.gradients


def _distance(first: Gradients, second: Gradients) -> float:
    """Norm of the difference relative to the norm, over all parameters."""
    assert first.keys() == second.keys()
    difference = sum(((first[name] - second[name]) ** 2).sum().item() for name in first)
    return math.sqrt(difference / sum((value**2).sum().item() for value in first.values()))


@pytest.fixture(scope="module")
def whole(micro_config: Sa2VAConfig, micro_samples: Samples) -> Gradients:
    """Gradients of one step on all samples in one batch."""
    (gradients,) = _gradients(micro_config, micro_samples, 8, 1)
    return gradients


class TestExactAccumulation:
    def test_samples_are_unequal(self, micro_samples: Samples) -> None:
        for key, kinds in (("gt_masks", 4), ("pixel_values", 2), ("input_ids", 4)):
            assert len({len(sample[key]) for sample in micro_samples}) >= kinds

    @pytest.mark.parametrize(("batch_size", "steps"), [(4, 2), (2, 4), (1, 8)])
    def test_micro_batches_add_up_to_the_whole(
        self, micro_config: Sa2VAConfig, micro_samples: Samples, whole: Gradients, batch_size: int, steps: int
    ) -> None:
        (parted,) = _gradients(micro_config, micro_samples, batch_size, steps)
        assert _distance(whole, parted) < 1e-9
        largest = max(value.abs().max().item() for value in whole.values())
        for name, value in whole.items():
            # key biases have no gradient but rounding errors: softmax doesn't see them
            assert torch.allclose(value, parted[name], rtol=1e-9, atol=1e-13 * largest), name

    def test_averaging_micro_batches_does_not(
        self, micro_config: Sa2VAConfig, micro_samples: Samples, whole: Gradients
    ) -> None:
        network = Sa2VA(micro_config, seed=0).double().train()
        for first in range(0, 8, 2):
            (network(sa2va_collate(micro_samples[first : first + 2]))["loss"] / 4).backward()
        averaged = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        assert _distance(whole, averaged) > 0.01

    def test_short_last_window(self, micro_config: Sa2VAConfig, micro_samples: Samples) -> None:
        # 5 micro-batches of 1 in windows of 2: 2, 2, 1
        parted = _gradients(micro_config, micro_samples[:5], 1, 2)
        assert len(parted) == 3
        for gradients, window in zip(parted, ((0, 2), (2, 4), (4, 5)), strict=True):
            (expected,) = _gradients(micro_config, micro_samples[slice(*window)], 2, 1)
            assert _distance(expected, gradients) < 1e-9

    def test_window_without_objects(self, micro_config: Sa2VAConfig, micro_samples: Samples) -> None:
        (gradients,) = _gradients(micro_config, [micro_samples[2]] * 2, 1, 2)
        assert gradients["mllm.lm_head.weight"].abs().max() > 0
        assert all(value.isfinite().all() for value in gradients.values())

    def test_losses_of_a_window_add_up_too(self, micro_config: Sa2VAConfig, micro_samples: Samples) -> None:
        def total(batch_size: int, steps: int) -> float:
            losses: list[float] = []
            network = Sa2VA(micro_config, seed=0).double()
            trainer = _trainer(network, micro_samples, batch_size, accumulation_steps=steps)
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output[0]["loss"].item())
            )
            trainer.run()
            assert len(losses) == steps
            return sum(losses)

        assert total(2, 4) == pytest.approx(total(8, 1), rel=1e-12)


class TestSteps:
    @pytest.fixture
    def network(self, micro_config: Sa2VAConfig) -> Sa2VA:
        return Sa2VA(micro_config, seed=0)

    def test_one_optimizer_step_a_window(self, network: Sa2VA, micro_samples: Samples) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step * 1e-3)
        rates: list[float] = []
        settings = {"optimizer": optimizer, "lr_scheduler": scheduler, "max_epochs": 2}
        trainer = _trainer(network, micro_samples[:5], 1, accumulation_steps=2, **settings)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: rates.append(engine.state.lr))
        trainer.run()
        assert trainer.state.iteration == 10
        assert trainer.state.optimizer_steps == 6
        assert scheduler.last_epoch == 6
        # the rate of the latest step taken: it changes after micro-batches 2, 4 and 5 of each epoch
        expected = [1, 1, 1, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.03125]
        assert rates == pytest.approx([1e-3 * rate for rate in expected])

    def test_parameters_move_only_where_a_step_is_taken(self, network: Sa2VA, micro_samples: Samples) -> None:
        weight = network.text_hidden_fcs[0].weight
        seen = [weight.detach().clone()]
        trainer = _trainer(network, micro_samples[:4], 1, lr=1e-3, accumulation_steps=2)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: seen.append(weight.detach().clone()))
        trainer.run()
        moved = [not torch.equal(before, after) for before, after in itertools.pairwise(seen)]
        assert moved == [False, True, False, True]

    def test_clips_the_whole_step_once(self, network: Sa2VA, micro_samples: Samples) -> None:
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        norms: list[float] = []
        accumulated: list[float] = []

        def norm_of_gradients(engine: Sa2VATrainer) -> None:
            gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            accumulated.append(torch.cat(gradients).norm().item())

        trainer = _trainer(network, micro_samples[:4], 1, lr=1.0, accumulation_steps=4, clip_norm=1e-3)
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, norm_of_gradients)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: norms.append(engine.state.grad_norm))
        trainer.run()
        # no micro-batch before the last was clipped, or the sum would be 4e-3 at most
        assert accumulated[-1] > 0.1
        assert norms == [0.0, 0.0, 0.0, pytest.approx(accumulated[-1], rel=1e-4)]
        step = math.sqrt(sum(((p - before[name]) ** 2).sum().item() for name, p in network.named_parameters()))
        assert step == pytest.approx(1e-3, rel=1e-2)

    def test_without_clipping(self, network: Sa2VA, micro_samples: Samples) -> None:
        weight = network.text_hidden_fcs[2].weight
        before = weight.detach().clone()
        probe = Probe(network)
        trainer = _trainer(network, micro_samples[:2], 2, lr=1.0, clip_norm=None, train_handlers=[probe])
        trainer.run()
        gradient = probe.gradients[0]["text_hidden_fcs.2.weight"]
        assert torch.allclose(before - weight, gradient, atol=1e-6)
        assert trainer.state.grad_norm > 0

    def test_frozen_parameters_stay(self, network: Sa2VA, micro_samples: Samples) -> None:
        network.mllm.requires_grad_(False)
        before = network.mllm.lm_head.weight.detach().clone()
        _trainer(network, micro_samples[:2], 1, lr=1.0).run()
        assert torch.equal(network.mllm.lm_head.weight, before)
        assert network.mllm.lm_head.weight.grad is None

    def test_gradients_from_before_a_run_do_not_count(self, network: Sa2VA, micro_samples: Samples) -> None:
        expected, probe = Probe(network), Probe(network)
        _trainer(network, micro_samples[:1], 1, train_handlers=[expected]).run()
        network(sa2va_collate(micro_samples[1:3]))["loss"].backward()
        _trainer(network, micro_samples[:1], 1, train_handlers=[probe]).run()
        assert _distance(expected.gradients[0], probe.gradients[0]) < 1e-6

    def test_epoch_length(self, network: Sa2VA, micro_samples: Samples) -> None:
        trainer = _trainer(network, micro_samples, 1, accumulation_steps=2, epoch_length=3, max_epochs=2)
        trainer.run()
        assert (trainer.state.iteration, trainer.state.optimizer_steps) == (6, 4)

    def test_output(self, network: Sa2VA, micro_samples: Samples) -> None:
        trainer = _trainer(network, micro_samples[:2], 2)
        trainer.run()
        (output,) = trainer.state.output
        assert {str(key) for key in output} == {"loss", "loss_mask", "loss_dice", "loss_lang", "pred_masks"}
        assert not any(value.requires_grad for value in output.values())
        assert output["pred_masks"].shape == (2, 3, 16, 16)

    def test_events_in_monais_order(self, network: Sa2VA, micro_samples: Samples) -> None:
        trainer = _trainer(network, micro_samples[:1], 1)
        seen: list[str] = []
        events = ("FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED")
        for name in events:
            trainer.add_event_handler(IterationEvents[name], lambda _, name=name: seen.append(name))
        trainer.run()
        assert seen == list(events)


class TestBfloat16:
    def test_autocast_is_used_and_no_scaler(self, micro_config: Sa2VAConfig, micro_samples: Samples) -> None:
        types: dict[bool, set[torch.dtype]] = {}
        for amp in (False, True):
            network = Sa2VA(micro_config, seed=0)
            seen: set[torch.dtype] = set()
            layers = (network.language_model.layers[0].mlp.down_proj, network.text_hidden_fcs[0])
            for layer in layers:
                layer.register_forward_hook(lambda *args, seen=seen: seen.add(args[2].dtype))
            trainer = _trainer(network, micro_samples[:2], 2, lr=1e-3, amp=amp)
            trainer.run()
            assert trainer.scaler is None
            assert trainer.state.output[0]["loss"].isfinite()
            assert trainer.state.output[0]["loss"].dtype == torch.float32
            # the weights and their gradients stay in float32
            assert {p.dtype for p in network.parameters()} == {torch.float32}
            types[amp] = seen
        assert types == {False: {torch.float32}, True: {torch.bfloat16}}


class TestResume:
    def _make(self, config: Sa2VAConfig, samples: Samples, epochs: int) -> tuple[Sa2VATrainer, dict[str, Any]]:
        network = Sa2VA(config, seed=0)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=12)
        trainer = _trainer(
            network, samples, 1, optimizer=optimizer, lr_scheduler=scheduler, accumulation_steps=2, max_epochs=epochs
        )
        state = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "trainer": trainer}
        return trainer, state

    def test_goes_on_as_if_never_stopped(
        self, micro_config: Sa2VAConfig, micro_samples: Samples, tmp_path: Path
    ) -> None:
        through, state = self._make(micro_config, micro_samples[:3], 4)
        through.run()
        expected = state["network"].state_dict()

        first, state = self._make(micro_config, micro_samples[:3], 2)
        CheckpointSaver(str(tmp_path), state, save_final=True, final_filename="last.pt").attach(first)
        first.run()
        second, state = self._make(micro_config, micro_samples[:3], 4)
        CheckpointLoader(str(tmp_path / "last.pt"), state).attach(second)
        epochs: list[int] = []
        second.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
        second.run()
        assert epochs == [3, 4]
        assert second.state.iteration == 12
        assert second.state.optimizer_steps == through.state.optimizer_steps == 8
        assert state["scheduler"].last_epoch == 8
        for name, value in state["network"].state_dict().items():
            assert torch.allclose(value, expected[name], atol=1e-6), name


class TestLearning:
    def test_loss_falls_on_two_phantoms(self, micro_config: Sa2VAConfig) -> None:
        network = Sa2VA(micro_config, seed=0)
        samples = []
        for seed in (1, 2):
            phantom = make_phantom(seed)
            name = next(iter(phantom.masks))
            sample = network.processor(phantom.image, [(f"Segment the {name}.", answer_segments([name]))])
            sample["gt_masks"] = torch.from_numpy(np.stack([phantom.masks[name]]).astype(np.uint8))
            sample["frames_per_batch"] = 1
            samples.append(sample)
        parts: dict[str, list[float]] = {"loss": [], "loss_mask": [], "loss_dice": [], "loss_lang": []}

        def record(engine: Sa2VATrainer) -> None:
            for key, values in parts.items():
                values.append(engine.state.output[0][key].item())

        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
        trainer = _trainer(network, samples, 2, optimizer=optimizer, max_epochs=25)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
        trainer.run()
        assert len(parts["loss"]) == 25
        for key, values in parts.items():
            assert values[-1] < 0.85 * values[0], key


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"accumulation_steps": 0}, "accumulation_steps is 0"),
            ({"accumulation_steps": 1.5}, r"accumulation_steps is 1\.5"),
            ({"clip_norm": 0.0}, r"clip_norm is 0\.0; give a positive number, or null"),
            ({"clip_norm": float("nan")}, "clip_norm is nan"),
            ({"epoch_length": 0}, "epoch_length is 0"),
        ],
    )
    def test_settings(
        self, micro_config: Sa2VAConfig, micro_samples: Samples, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            _trainer(Sa2VA(micro_config, seed=0), micro_samples, 1, **settings)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("gt_masks"), "a training batch needs gt_masks; build it with sa2va_collate"),
            (lambda s: s.update(pixel_values=torch.zeros(1, 3, 14, 14)), "pixel_values has shape"),
        ],
    )
    def test_batches(
        self, micro_config: Sa2VAConfig, micro_samples: Samples, change: Callable[[dict[str, Any]], Any], message: str
    ) -> None:
        sample = dict(micro_samples[1])
        change(sample)
        with pytest.raises(DataError, match=message):
            _trainer(Sa2VA(micro_config, seed=0), [sample], 1).run()


def test_move_to_copies() -> None:
    batch = {"a": torch.zeros(1), "b": [1], "c": "text"}
    moved = move_to(batch, torch.device("meta"))
    assert moved["a"].device.type == "meta"
    assert (moved["b"], moved["c"]) == ([1], "text")
    assert batch["a"].device.type == "cpu"
