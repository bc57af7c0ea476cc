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

"""One process a GPU: joining them, wrapping the network, sharing the data out, and ending together."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sized
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from monai.data import DistributedSampler
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_sa2va.enums import Sa2VAKeys as Keys
from monai_sa2va.errors import ConfigError, ProcessError, Sa2VAError

__all__ = [
    "DistributedSa2VA",
    "evaluation_sampler",
    "gather_all",
    "is_main",
    "join_processes",
    "others_go_on",
    "others_wait",
    "process_device",
    "process_number",
    "unwrap",
]

_LOGGER = logging.getLogger(__name__)
_GRACE_SECONDS = 10.0  # torchrun looks after its processes ten times a second, and ends them all once one is gone
_PEER_GONE = ("closed by peer", "reset by peer", "connection refused", "broken pipe", "timed out")


def process_device() -> torch.device:
    """The device of this process: the GPU of its number on this node (``LOCAL_RANK``), or the CPU where there is none.

    Raises:
        ConfigError: when torchrun started more processes than this node has GPUs, or none.
    """
    number = _torchrun("LOCAL_RANK")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if number >= torch.cuda.device_count():
        raise ConfigError(
            f"process {number} finds no GPU of its own, this machine has {torch.cuda.device_count()}; "
            f"give torchrun --nproc_per_node {torch.cuda.device_count()} or fewer"
        )
    return torch.device("cuda", number)


def process_number() -> int:
    """Number of this process among those that :func:`join_processes` joined; 0 of one that stands alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that logs and writes."""
    return process_number() == 0


def gather_all(value: Any) -> list[Any]:
    """What each process has, by their numbers, in all of them; every process has to call this.

    Args:
        value: anything that can be pickled.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def join_processes(device: torch.device | str, timeout_minutes: float = 30.0) -> None:
    """Join the processes that torchrun started, over NCCL for GPUs and gloo for CPUs.

    From then on the others than the first log errors only and show no Python warnings. Where one process ends, so do
    all, and just one of them says why: the one that failed; of those that fail alike, the first; and where one was
    killed, the first of the others that notices, in a line instead of a traceback from the depth of a library.

    Args:
        device: of this process, from :func:`process_device`.
        timeout_minutes: how long one process waits for another before it gives up, above 0.

    Raises:
        ConfigError: when torchrun didn't start this process, or the timeout isn't above 0.
    """
    rank = _torchrun("RANK")
    if not timeout_minutes > 0:
        raise ConfigError(f"timeout_minutes is {timeout_minutes}; give a number above 0")
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(minutes=timeout_minutes),
            device_id=device if device.type == "cuda" else None,
        )
    # Ignite gathers host names the first time it is asked for anything, and in a handler that only one process has it
    # would wait for the others for ever.
    idist.sync()
    if rank:
        # what is said while a run is set up is the same in all of them
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    _LOGGER.info("%d processes, joined over %s", dist.get_world_size(), dist.get_backend())
    words = _first_words()
    # of a process that ends without an exception, too, the others needn't say that it is gone
    atexit.register(words, f"process {rank} ended")
    sys.excepthook = _report(sys.excepthook, rank, words)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _ended(rank, words))


def others_wait() -> None:
    """Let all processes but the first of each node wait until that one calls :func:`others_go_on`.

    Between the two calls the first checks, and makes what all of them use, such as phantoms. What ends it there ends
    those that wait.
    """
    if _torchrun("LOCAL_RANK"):
        dist.barrier()


def others_go_on() -> None:
    """Let those that wait in :func:`others_wait` go on; nothing happens in themselves."""
    if not _torchrun("LOCAL_RANK"):
        dist.barrier()


def evaluation_sampler(dataset: Sized) -> DistributedSampler | None:
    """Share a dataset out to the processes, in order and without padding, so that no sample is scored twice.

    Args:
        dataset: of which every process needs a sample; one that is empty needs no sampler.

    Raises:
        ConfigError: when there are more processes than samples.
    """
    if not len(dataset):
        return None
    if len(dataset) < dist.get_world_size():
        raise ConfigError(
            f"{len(dataset)} validation samples are too few for {dist.get_world_size()} processes; each needs one: "
            "start fewer with --nproc_per_node, or add entries to 'validation'"
        )
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)  # type: ignore[arg-type]  # of which it takes the length


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, out of whatever ``module`` it was put in."""
    while isinstance(inner := getattr(network, "module", None), nn.Module):
        network = inner
    return network


class DistributedSa2VA(DistributedDataParallel):
    """A Sa2VA whose gradients are those of the batches of all processes together.

    Use it for training only; validate with, and save, the network itself: it needs no contact with other processes.

    ``DistributedDataParallel`` averages gradients, while our losses are sums divided by the counts of the whole
    effective batch. :class:`~monai_sa2va.engines.trainer.Sa2VATrainer` therefore adds up the counts with
    :meth:`add_up`, and multiplies the loss by the number of processes.

    Args:
        network: a :class:`~monai_sa2va.networks.sa2va.Sa2VA` on its device; all processes get the first one's weights.
        find_unused_parameters: look for parameters that a step doesn't use. They depend on the data (no object, no mask
            decoder), and some never are, so without it a step fails or waits for ever.
        timeout_minutes: how long one process waits for the counts of another, above 0.
        **kwargs: of ``DistributedDataParallel``.

    Raises:
        ConfigError: when the processes aren't joined yet.
    """

    def __init__(
        self,
        network: nn.Module,
        find_unused_parameters: bool = True,
        timeout_minutes: float = 30.0,
        **kwargs: Any,
    ) -> None:
        if not dist.is_initialized():
            raise ConfigError("the processes are not joined; call join_processes in 'initialize', or leave this out")
        # Buffers are constants here. Sent around at each step, they would cost time.
        # torch 2.15 gave the argument another name.
        known = inspect.signature(DistributedDataParallel).parameters
        no_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings = {no_buffers: False, "find_unused_parameters": find_unused_parameters, **kwargs}
        super().__init__(_OneGradient(network), **settings)
        # Counts lie on the CPU: over NCCL, adding them up would wait for all that the GPU has to do before.
        self._cpu_group: Any = (
            dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
            if dist.get_backend() == "nccl"
            else None
        )

    def add_up(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes, which all have to call this with the same keys.

        Args:
            values: numbers by name.
        """
        names = sorted(values)
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64)
        dist.all_reduce(sums, group=self._cpu_group)
        return dict(zip(names, sums.tolist(), strict=True))


class _OneGradient(nn.Module):
    """Leaves the loss alone with a gradient.

    DistributedDataParallel takes every parameter behind an output for one that the backward pass reaches, and would
    wait for those behind scores that no loss uses.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, data: Mapping[str, Any]) -> dict[str, Any]:
        output: dict[str, Any] = self.module(data)
        return {key: value if key == Keys.LOSS else value.detach() for key, value in output.items()}


def _torchrun(name: str) -> int:
    if name not in os.environ:
        raise ConfigError(
            f"{name} is not set: multi_gpu_train.json needs one process a GPU; start it with "
            "'torchrun --nproc_per_node 2 -m monai.bundle run training ...', or leave it out of config_file"
        )
    return int(os.environ[name])


_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def _first_words() -> Callable[[str], str]:
    """A function that takes what this process says of the run's end, and gives what was said first, by whichever one.

    The store lies with torchrun, so it outlives any of its processes.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_GRACE_SECONDS))
    key = f"monai_sa2va_end_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"

    def say(text: str) -> str:
        try:
            return store.compare_set(key, "", text).decode()
        # torchrun itself is gone: better said twice than never
        except RuntimeError:
            return text

    return say


def _report(usual: _Hook, rank: int, say: Callable[[str], str]) -> _Hook:
    """An excepthook that shows this package's errors as a line, and nothing that another process says or caused."""

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            usual(kind, error, traceback)
            return
        chain = _causes(error)
        told = next((link for link in chain if isinstance(link, Sa2VAError)), chain[-1])
        gone = _is_peer_gone(chain)
        if gone:
            told = ProcessError(_KILLED)
        own = f"process {rank}: {told}"
        first = say(own)
        if first == own or not (gone or first.endswith(f": {told}")):
            if isinstance(told, Sa2VAError):
                _tell(own)
            else:
                usual(kind, error, traceback)
        # Ending at once, this process could be taken for the one that began it.
        if gone or first != own:
            time.sleep(_GRACE_SECONDS)

    return hook


def _ended(rank: int, say: Callable[[str], str]) -> Callable[[int, FrameType | None], None]:
    """A handler of SIGTERM, by which torchrun ends the others: it may come before a process misses the one killed."""

    def handler(number: int, _: FrameType | None) -> None:
        own = f"process {rank}: {ProcessError(_TOLD)}"
        if say(own) == own:
            _tell(own)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    return handler


def _tell(text: str) -> None:
    # the last line may be another process' progress bar, without an end
    print(f"\nerror: {text}", file=sys.stderr, flush=True)


_TOLD = (
    "another process of this run was killed, or the run was told to end; torchrun names it below. To go on from the "
    "last checkpoint, start the run again with --resume True"
)
_KILLED = (
    "another process of this run was killed or does not answer, so all end; torchrun names it below. To go on from the "
    "last checkpoint, start the run again with --resume True"
)


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from: MONAI wraps what an expression of a configuration raises."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _is_peer_gone(chain: list[BaseException]) -> bool:
    for error in chain:
        if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
            return True
        text = str(error).lower()
        if isinstance(error, RuntimeError) and "gloo" in text and any(part in text for part in _PEER_GONE):
            return True
    return False
