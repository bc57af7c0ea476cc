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

"""A batch as the command line asks for it: planned and checked before the network is loaded, then run or described."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_sa2va.batch.estimate import Estimate, estimate
from monai_sa2va.batch.job import Job, Outcome
from monai_sa2va.batch.lock import refuse_held, run_lock
from monai_sa2va.batch.plan import plan_jobs
from monai_sa2va.batch.ray_workers import Recipe, ray_workers
from monai_sa2va.batch.run import check_output, outcomes_here, prepare_output, run_batch
from monai_sa2va.batch.shards import Shard
from monai_sa2va.batch.tables import Tables
from monai_sa2va.batch.worker import Options, Worker, need_writers
from monai_sa2va.inferers.image import check_mode
from monai_sa2va.inferers.volume import check_context, check_volume_mode
from monai_sa2va.writers.masks import check_formats

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """What is to be done, how, and by which network.

    Attributes:
        jobs: the shard's own, or all.
        options: of the batch.
        recipe: of the network.
        shard: which part, where there are several.
    """

    jobs: list[Job]
    options: Options
    recipe: Recipe
    shard: Shard | None = None

    @classmethod
    def of(
        cls,
        inputs: Sequence[Path],
        prompts: Sequence[str],
        output: Path,
        *,
        where: Sequence[str] | None = None,
        rules: Path | None = None,
        formats: Sequence[str] | None = None,
        mode: str = "segment",
        context: str | None = None,
        overwrite: bool = False,
        include_patient: bool = False,
        shard: str | None = None,
        **network: Any,
    ) -> Command:
        """Check everything that can be checked without the network, and look what there is to be done.

        Args:
            inputs: as for :func:`~monai_sa2va.batch.plan.plan_jobs`, like the next, ``where`` and ``rules``.
            prompts: what is asked of all.
            output: where results go.
            where: which DICOM series.
            rules: which are asked what.
            formats: of the masks.
            mode: segment or chat.
            context: what the language model sees of a cine.
            overwrite: whether what is done is done again.
            include_patient: whether texts of headers are kept.
            shard: ``"i/n"``.
            **network: as for :class:`~monai_sa2va.batch.ray_workers.Recipe`.

        Raises:
            Sa2VAError: naming the option that can't be used.
        """
        part = None if shard is None else Shard.parse(shard)
        options = Options(
            output,
            None if formats is None else check_formats(formats),
            check_mode(mode),
            check_context(context, check_volume_mode(network.get("volume"))),
            overwrite=overwrite,
            include_patient=include_patient,
        )
        jobs = plan_jobs(inputs, prompts, where=where, rules=rules, output_dir=output)
        mine = jobs if part is None else part.pick(jobs)
        need_writers(mine, options.formats)
        return cls(mine, options, Recipe(**network), part)

    def run(
        self,
        show: Callable[[Outcome], None],
        progress: Callable[[Job, int, int], None],
        workers: int | None = None,
        ray: str | None = None,
    ) -> Tables:
        """Do it, here or by Ray's workers. The output folder is made once the network is there.

        Args:
            show: called with each outcome.
            progress: as for :func:`~monai_sa2va.batch.run.outcomes_here`; workers elsewhere don't tell theirs.
            workers: how many of Ray's; here where neither this nor ``ray`` is given.
            ray: address of a cluster, or ``"local"``.

        Raises:
            Sa2VAError: when the output can't be written, another run is at it, or the network can't be loaded.
            SystemExit: 143, when SIGTERM came.
        """
        check_output(self.options.output_dir)
        refuse_held(self.options.output_dir, self.shard)
        if workers is None and ray is None:
            worker = Worker(self.recipe.make(), self.options)
            about = {"device": str(worker.segmenter.device), "weights": worker.weights}
            return self._written(outcomes_here(worker, self.jobs, progress), about, show)
        # a worker may run in another folder than this one
        options = replace(self.options, output_dir=self.options.output_dir.absolute())
        jobs = [replace(j, source=j.source.absolute()) if isinstance(j.source, Path) else j for j in self.jobs]
        with ray_workers(self.recipe.absolute(), options, ray or "local", workers) as cluster:
            return self._written(cluster.outcomes(jobs), cluster.about, show)

    def _written(
        self, outcomes: Iterator[Outcome], about: Mapping[str, Any], show: Callable[[Outcome], None]
    ) -> Tables:
        output = prepare_output(self.options.output_dir)
        with run_lock(output, self.shard):
            tables = Tables(output, self.shard, about)
            run_batch(outcomes, tables, show)
        return tables

    def describe(self) -> Iterator[str]:
        """What would be done, a line a series, and how long it will take; nothing is written.

        Raises:
            Sa2VAError: when the network can't be loaded.
        """
        for job in self.jobs:
            if job.verdict is None:
                what = f"{job.slices} slices  " + "  ".join(job.prompts)
            else:
                status, code, reason = job.verdict
                what = f"{status.value}  [{code}] {reason}"
            yield "  ".join(part for part in (job.name, job.modality, what) if part)
        found = estimate(Worker(self.recipe.make(), self.options), self.jobs)
        yield _summed(found, len(self.jobs))


def _summed(found: Estimate, jobs: int) -> str:
    left = jobs - found.jobs - found.earlier
    parts = [f"{found.jobs} of {jobs} images are to be segmented, {found.slices} slices"]
    if found.earlier:
        parts.append(f"{found.earlier} are done already with the same prompts, options and weights")
    if left:
        parts.append(f"{left} are not to be segmented, or can't be")
    time = found.told if found.seconds is None or not found.jobs else f"about {_clock(found.seconds)}, {found.told}"
    return "; ".join(parts) + f"\ntime: {time}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
