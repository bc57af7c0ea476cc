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

"""Windows of micro-batches that make one optimizer step, with what each has to know of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, DataError

__all__ = ["AccumulationWindows", "check_steps"]


class AccumulationWindows:
    """Iterate over a loader in windows of ``steps`` micro-batches.

    A loss part is a sum divided by a count. For the gradients of several micro-batches to add up to exactly those of
    one large batch, every one of them has to be divided by the count of the whole window, so a window is collected
    before its first micro-batch is handed out.

    Args:
        loader: of collated batches; one with ``set_epoch(epoch, first_batch)``, as
            :class:`~monai_sa2va.data.dataloader.Sa2VADataLoader`, can be entered anywhere.
        steps: micro-batches a window; the last window of an epoch may be shorter.
        count: what a batch counts, by loss part: :meth:`monai_sa2va.networks.sa2va.Sa2VA.loss_counts`.
        epoch_length: micro-batches an epoch, in which no window reaches into the next one; those of the loader by
            default. A shorter epoch goes on in the next one where it stopped, a longer one starts the loader anew.
        add_up: makes the counts of all processes of one's own, where several share the effective batch: all of them
            then need the same number of micro-batches.

    Raises:
        ConfigError: when ``steps`` or ``epoch_length`` is below 1.
    """

    def __init__(
        self,
        loader: Iterable[dict[str, Any]],
        steps: int,
        count: Callable[[Mapping[str, Any]], dict[str, float]],
        epoch_length: int | None = None,
        add_up: Callable[[Mapping[str, float]], dict[str, float]] = dict,
    ) -> None:
        check_steps(steps)
        if epoch_length is not None and epoch_length < 1:
            raise ConfigError(f"epoch_length is {epoch_length}; at least 1 is needed")
        self.loader, self.steps, self.count, self.epoch_length = loader, steps, count, epoch_length
        self.add_up = add_up
        self._source: Iterator[dict[str, Any]] | None = None
        # micro-batches taken from the loader since the run began, and those of the next epoch that are done already
        self._taken = self._first = 0

    def __len__(self) -> int:
        """Micro-batches an epoch."""
        return len(self.loader) if self.epoch_length is None else self.epoch_length  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the micro-batches of one epoch with ``loss_counts`` of their window and ``window_end``."""
        window: list[dict[str, Any]] = []
        first, self._first = self._first, 0
        if self.epoch_length is None:
            self._source = None
        for number in range(first + 1, len(self) + 1):
            window.append(self._next())
            if len(window) == self.steps or number == len(self):
                yield from self._release(window)
                window = []

    def seek(self, done: int) -> None:
        """Let the next iteration go on where a run stopped, also in mid-epoch; nothing is loaded twice.

        Args:
            done: micro-batches since the run began, over all its epochs; a multiple of ``steps`` within its epoch.

        Raises:
            ConfigError: when the loader can't be entered there.
        """
        self._first = done % len(self)
        if done != self._taken:
            if not hasattr(self.loader, "set_epoch") and done % len(self.loader):  # type: ignore[arg-type]
                raise ConfigError(
                    "the training loader has no set_epoch, so training can't go on in the midst of an epoch; take a "
                    "Sa2VADataLoader with a seed"
                )
            self._taken, self._source = done, None

    def _open(self) -> Iterator[dict[str, Any]]:
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(*divmod(self._taken, len(self.loader)))  # type: ignore[arg-type]
        return iter(self.loader)

    def _next(self) -> dict[str, Any]:
        for _ in range(2):
            if self._source is None:
                self._source = self._open()
            for batch in self._source:
                self._taken += 1
                return batch
            self._source = None
        raise DataError("the training loader gives no batch; its dataset is smaller than a batch, or empty")

    def _release(self, window: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        totals: dict[str, float] = {}
        for batch in window:
            for part, value in self.count(batch).items():
                totals[part] = totals.get(part, 0.0) + value
        # no object or no answer in a whole window: its sum is zero, and so is the part
        totals = {part: max(value, 1.0) for part, value in self.add_up(totals).items()}
        for number, batch in enumerate(window, start=1):
            yield {**batch, Keys.LOSS_COUNTS: totals, Keys.WINDOW_END: number == len(window)}


def check_steps(steps: int) -> None:
    """Refuse a number of micro-batches a step that isn't a whole number of at least 1.

    Raises:
        ConfigError: naming the argument.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ConfigError(f"accumulation_steps is {steps!r}; give a whole number of at least 1")
