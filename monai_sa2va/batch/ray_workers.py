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

"""A batch over several GPUs and computers by Ray: an actor a GPU, each a :class:`~monai_sa2va.batch.worker.Worker`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_sa2va.batch.job import Job, Outcome, failure
from monai_sa2va.batch.worker import Options, Worker
from monai_sa2va.bundles import find_bundle
from monai_sa2va.errors import ConfigError, ProcessError, Sa2VAError
from monai_sa2va.inferers.image import ImageInferer
from monai_sa2va.inferers.volume import VolumeInferer
from monai_sa2va.predictor import Segmenter, as_device

__all__ = ["RayWorkers", "Recipe", "ray_workers"]

# one is computed while the next is read
_ASKED_AT_ONCE = 2
_LOCAL = "local"
_FEW = 4


@dataclass(frozen=True)
class Recipe:
    """How each worker makes its segmenter, as for :meth:`~monai_sa2va.predictor.Segmenter.from_bundle`.

    Attributes:
        bundle: folder of a bundle.
        checkpoint: weights in place of the bundle's.
        adapter: of a fine-tuning.
        device: where the network runs; ``None``: the worker's GPU where it has one.
        window: how grey values are shown.
        axis: how volumes are sliced.
        volume: how they are gone through, as for :class:`~monai_sa2va.inferers.volume.VolumeInferer`.
        planes: in which planes, as for :class:`~monai_sa2va.predictor.Segmenter`.
        roi_size: side of sliding windows, pixels, as for :class:`~monai_sa2va.inferers.image.ImageInferer`.
    """

    bundle: Path | None = None
    checkpoint: Path | None = None
    adapter: Path | None = None
    device: str | None = None
    window: Any = None
    axis: int | str | None = None
    volume: str = "auto"
    planes: str = "one"
    roi_size: int | None = None

    def absolute(self) -> Recipe:
        """The same for a process that runs in another folder."""
        paths = {name: getattr(self, name) for name in ("bundle", "checkpoint", "adapter")}
        if paths["checkpoint"] is None and paths["bundle"] is None:
            # what is found from here may not be found from there
            paths["bundle"] = find_bundle().path
        # a checkpoint may also be named by its id on a hub
        return replace(self, **{k: p.absolute() for k, p in paths.items() if p is not None and p.exists()})

    def make(self) -> Segmenter:
        """Build the network and load its weights.

        Raises:
            Sa2VAError: as :meth:`~monai_sa2va.predictor.Segmenter.from_bundle` does.
        """
        return Segmenter.from_bundle(
            self.bundle,
            checkpoint=self.checkpoint,
            adapter=self.adapter,
            device=self.device,
            window=self.window,
            axis=self.axis,
            inferer=None if self.roi_size is None else ImageInferer(self._amp, roi_size=self.roi_size),
            volume_inferer=VolumeInferer(self.volume),
            planes=self.planes,
        )

    @property
    def _amp(self) -> bool:
        # as a segmenter has it that makes its inferer itself
        return as_device(self.device).type == "cuda"


@contextmanager
def ray_workers(
    recipe: Recipe, options: Options, address: str = _LOCAL, workers: int | None = None
) -> Iterator[RayWorkers]:
    """Start Ray, or join a cluster, and make its workers; all read and write the same folders.

    Args:
        recipe: of their segmenters.
        options: of the batch.
        address: ``"local"`` starts Ray on this computer alone; else that of a running cluster, or ``"auto"``.
        workers: how many; by default one for each GPU, or one where there is none.

    Raises:
        ConfigError: when Ray isn't installed, or has nothing for so many workers.
        ProcessError: when the cluster can't be reached.
        Sa2VAError: when a worker can't make its segmenter.
    """
    ray = _import()
    try:
        _start(ray, address, workers)
        gpus = 0 if recipe.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        count, have = workers or max(1, gpus), gpus or int(ray.cluster_resources().get("CPU", 0))
        if not 1 <= count <= have:
            raise ConfigError(f"workers is {count}, but there are {have} {'GPUs' if gpus else 'CPU cores'} for them")
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        limits = {"max_restarts": -1, "max_task_retries": 1, "max_concurrency": _ASKED_AT_ONCE}
        actor = ray.remote(_Actor).options(**needs, **limits)
        yield RayWorkers(ray, [actor.remote(recipe, options) for _ in range(count)])
    finally:
        ray.shutdown()


class RayWorkers:
    """The workers of a batch.

    Args:
        ray: the module.
        actors: one a worker.

    Attributes:
        about: their number, device and weights, for ``run.json``.

    Raises:
        Sa2VAError: when a worker can't make its segmenter.
        ProcessError: when one ended before it had made it.
    """

    def __init__(self, ray: Any, actors: Sequence[Any]) -> None:
        self._ray, self._actors = ray, actors
        try:
            made = ray.get([actor.make.remote() for actor in actors])
        except ray.exceptions.RayError as error:
            raise ProcessError(
                f"a worker ended before it had its network ({type(error).__name__}); look at its memory"
            ) from error
        for told in made:
            if isinstance(told, Sa2VAError):
                raise told
        self.about: dict[str, Any] = {**made[0], "workers": len(actors)}

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """What becomes of jobs, as they end.

        A worker that dies, as for want of memory, is started again, and what it was at is tried once more.

        Args:
            jobs: in their order.
        """
        ray, waiting = self._ray, iter(jobs)
        asked: dict[Any, tuple[Job, Any]] = {}

        def ask(actor: Any) -> None:
            job = next(waiting, None)
            if job is not None:
                asked[actor.do.remote(job)] = (job, actor)

        for _ in range(_ASKED_AT_ONCE):
            for actor in self._actors:
                ask(actor)
        while asked:
            ready = ray.wait(list(asked), num_returns=1)[0][0]
            job, actor = asked.pop(ready)
            try:
                outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                kind = type(error).__name__
                lost = ProcessError(f"the worker that was at {job.name} ended ({kind}), twice; look at its memory")
                outcome = failure(job, lost)
            ask(actor)
            yield outcome


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self._recipe, self._options = recipe, options
        self._making, self._computing = threading.Lock(), threading.Lock()
        self._made: Worker | None = None

    def make(self) -> dict[str, Any] | Sa2VAError:
        """Load the network; what it is, or why it can't be had."""
        try:
            worker = self._worker()
        except Sa2VAError as error:
            return error
        return {"device": str(worker.segmenter.device), "weights": worker.weights}

    def do(self, job: Job) -> Outcome:
        """One is read while another is computed: Ray calls this in two threads."""
        worker = self._worker()
        opened = worker.open(job)
        with self._computing:
            return worker.finish(opened)

    def _worker(self) -> Worker:
        # not in __init__: one that is started again after its death has to load them, too
        with self._making:
            if self._made is None:
                self._made = Worker(self._recipe.make(), self._options)
            return self._made


def _import() -> Any:
    # read when ray is imported
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ConfigError("several workers need ray; pip install monai-sa2va[ray]") from error
    return ray


def _start(ray: Any, address: str, workers: int | None) -> None:
    shared: dict[str, Any] = {"include_dashboard": False} if address == _LOCAL else {"address": address}
    if address == _LOCAL and workers is not None:
        # a few may share fewer cores; thousands, each a process with the weights, would bring the computer down
        cores = max(_FEW, os.cpu_count() or 1)
        if workers > cores:
            raise ConfigError(f"workers is {workers}, but this computer is for {cores} at most; give fewer")
        shared["num_cpus"] = max(workers, os.cpu_count() or 1)
    main = threading.current_thread() is threading.main_thread()
    # Ray's own handlers end the program with a code of theirs, or by abort, before its tables are written
    heard = signal.getsignal(signal.SIGTERM) if main else None
    try:
        ray.init(**shared, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ProcessError(
            f"Ray at {address!r} can't be used: {reason}; start it, or give the address of one"
        ) from error
    finally:
        if heard is not None:
            signal.signal(signal.SIGTERM, heard)
