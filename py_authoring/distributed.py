"""One training as several processes see it: which samples are whose, and one gradient of all.

Each process takes its slice of the very batches that one process would take; gradients and losses are means over all
samples, weighted as the loss weights them. So the same recipe gives the same weights, to float rounding. Rank 0 alone
writes and speaks. All goes through `ignite.distributed`, on gloo or on nccl.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from py_authoring import launching, resuming
from py_authoring.data import Sample, count_samples
from py_authoring.device import choose_device, why_no_cuda
from py_authoring.errors import AuthoringError, DataError, DeviceError, LostProcessError, UsageError
from py_authoring.stopping import Say, StopSignal

#: How long the processes wait for one of them. One that has ended is noticed at once; this is for one that hangs.
TIMEOUT = datetime.timedelta(minutes=15)
_LOST = re.compile(r"gloo|nccl|ProcessGroup|TCPStore|Connection (closed|reset) by peer", re.IGNORECASE)


class Group:
    """The processes that train together, and the place of this one among them; a single one where it is alone.

    Args:
        rank: the number of this process.
        size: how many there are.
        local_rank: its number among those of its machine.

    Example:
        >>> group = Group(rank=1, size=2)
        >>> group.part([5, 3, 8]), group.leads
        ([8], False)
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._stop: _AgreedStop | None = None
        self._samples = 0
        self._synchronised = False

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def refuse(self, what: str) -> None:
        """Raises:
        UsageError: several processes train, which that cannot.
        """
        if self.size > 1:
            raise UsageError(
                f"{what} trains in one process, and this is one of {self.size}", hint="leave `--nproc` away"
            )

    def stop_signal(self, say: Say) -> StopSignal:
        """What hears Ctrl-C and SIGTERM; of several processes, all hear it after the same iteration."""
        if self.size == 1:
            return StopSignal(say)
        self._stop = _AgreedStop(say)
        return self._stop

    def choose_device(self, name: str) -> torch.device:
        """The device of that name for this process: of several on a machine with CUDA, each has one of its own.

        Raises:
            DeviceError: there is none for it.
        """
        if self.size == 1 or name == "cpu" or (name == "auto" and why_no_cuda()):
            return choose_device("cpu" if self.size > 1 else name)
        hint = "`--device cpu`, or fewer processes"
        if ":" in name:
            raise DeviceError(f"device `{name}` is one, and each of {self.size} processes needs its own", hint=hint)
        device = choose_device("cuda")
        if self.local_rank >= torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise DeviceError(f"rank {self.rank} has no CUDA device of its own: there are {there}", hint=hint)
        return torch.device(device.type, self.local_rank)

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """The processes find each other, and leave each other at the end of the block or on `leave`.

        Raises:
            LostProcessError: one of them did not come.
        """
        if self.size == 1:
            yield
            return
        if device.type == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ignite would take a CUDA device where there is one
        store = launching.store()
        options = {} if store is None else {"init_method": store, "rank": self.rank, "world_size": self.size}
        try:
            idist.initialize("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT, **options)
        except RuntimeError as error:
            raise _lost() from error
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """What follows is for rank 0 alone."""
        if self.size > 1 and idist.get_world_size() > 1:
            idist.finalize()

    def part(self, batch: Sequence[int]) -> list[int]:
        """The samples of a batch that are this process's: a slice; rank 0 has one in every batch."""
        first, end = (-(-rank * len(batch) // self.size) for rank in (self.rank, self.rank + 1))
        return list(batch[first:end])

    def count(self, batch: Any) -> int:
        """How many samples all processes together had in the last batch."""
        return self._samples if self.size > 1 else count_samples(batch)

    def largest_share(self, batch: Sample) -> int:
        """How many samples of the last batch the process has that has most of them."""
        return -(-self.count(batch) // self.size)

    def synchronise(self, model: nn.Module) -> nn.Module:
        """The model; of several processes on CUDA, with BatchNorm layers that see the whole batch."""
        if self.size > 1 and any(parameter.is_cuda for parameter in model.parameters()):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            self._synchronised = any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules())
        return model

    def start_alike(self, model: nn.Module, data_sha256: str) -> None:
        """Gives every process the weights of rank 0, where model.py draws from a generator that no seed reaches.

        Args:
            model: on its device.
            data_sha256: of the training data.

        Raises:
            DataError: the processes read other data, or make other models.
            LostProcessError: a process has ended.
        """
        if self.size == 1:
            return
        state = model.state_dict()
        shapes = repr([(name, tuple(value.shape), value.dtype) for name, value in state.items()])
        try:
            told = idist.all_gather(f"{data_sha256} {hashlib.sha256(shapes.encode()).hexdigest()}")
            assert isinstance(told, list)
            for rank, (theirs, ours) in enumerate(zip(told, [told[0]] * len(told), strict=True)):
                if theirs != ours:
                    what = "other data" if str(theirs).split()[0] != str(ours).split()[0] else "another model"
                    raise DataError(
                        f"rank {rank} of {self.size} has {what} than rank 0",
                        hint="each process needs the same model.py and the same files; model.py should draw from "
                        "torch's, NumPy's or Python's global generators, which are seeded",
                    )
            with torch.no_grad():
                for value in state.values():
                    idist.broadcast(value, src=0)
        except AuthoringError:
            raise
        except RuntimeError as error:
            raise _lost() from error

    def attach(self, trainer: Engine, seed: int) -> None:
        """Lets each process draw numbers of its own.

        Rank 0 draws as one process does. What the others draw follows from the iteration: no checkpoint holds it.
        """

        def seed_iteration(engine: Engine) -> None:
            digest = hashlib.sha256(f"{seed} {self.rank} {engine.state.iteration}".encode()).digest()
            resuming.seed_everything(int.from_bytes(digest[:8], "little") >> 1)

        if not self.leads:
            trainer.add_event_handler(Events.GET_BATCH_STARTED, seed_iteration)

    def pad_alike(self, batch: Sample, pad_values: Mapping[str, float]) -> Sample:
        """Fills samples of unequal length up to the longest of the whole batch, as one process would."""
        inputs, target = batch
        names = [name for name in inputs if name in pad_values]
        if self.size == 1 or not names:
            return batch
        lengths = torch.tensor([inputs[name].shape[1] if count_samples(batch) else 0 for name in names])
        padded = dict(inputs)
        for name, length in zip(names, self._reduce(lengths, "MAX").tolist(), strict=True):
            value = inputs[name]
            padded[name] = value.new_full((len(value), length, *value.shape[2:]), pad_values[name])
            padded[name][:, : value.shape[1]] = value[:, :length]
        return padded, target

    def computes(self, samples: int) -> bool:
        """Whether this process has something to compute; where BatchNorm layers wait for each other, all have."""
        return samples > 0 or self._synchronised

    def share_out(self, weight: Tensor, samples: int) -> Tensor:
        """What the losses of all processes are divided by, so that they sum up to the mean loss of the whole batch.

        Before the model is called; passes on a wish to stop.

        Args:
            weight: `objective.total_weight` of this process's slice, shape `[]`.
            samples: how many are in the slice.

        Returns:
            The sum of all weights, of weight's type and shape.

        Raises:
            LostProcessError: a process has ended.
        """
        if self.size == 1:
            return weight
        heard = self._stop is not None and self._stop.heard is not None
        told = self._reduce(torch.tensor([float(weight), samples, heard], dtype=torch.float64))
        total, count, wish = told.tolist()
        self._samples = round(count)
        self._hear(wish)
        return torch.full_like(weight, total)

    def sum_up(self, model: nn.Module, loss: Tensor | None) -> Tensor:
        """Makes the gradients of each process those of all together, after the way back.

        Args:
            model: gets them, and the floating-point buffers of rank 0, as torch's DistributedDataParallel does it.
            loss: of this process's slice, shape `[]`; None if it computed nothing.

        Returns:
            The sum of the losses, shape `[]`.

        Raises:
            LostProcessError: a process has ended.
        """
        if self.size == 1 and loss is not None:
            return loss
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        told = [0.0 if loss is None else float(loss.detach()), *(each.grad is not None for each in parameters)]
        sums = torch.tensor(told, dtype=torch.float32, device=parameters[0].device)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        for buffer in [] if self.leads else buffers:  # a sum to which one process alone adds
            buffer.zero_()
        self._sum_in_place([sums, *gradients, *buffers])
        for parameter, count in zip(parameters, sums[1:].tolist(), strict=True):
            if not count:  # no process used it: the optimizer is to pass it over
                parameter.grad = None
        return sums[0]

    def agree_to_stop(self, stop: StopSignal) -> bool:
        """Whether a signal was heard, by any process."""
        if self._stop is not None:
            heard = torch.tensor([float(self._stop.heard is not None)])
            self._hear(self._reduce(heard).item())
        return stop.received is not None

    def describe(self, model: nn.Module, batch_size: int) -> list[str]:
        """What a person should know at the start of a training in several processes, a line each."""
        if self.size == 1:
            return []
        sizes = [len(Group(rank, self.size).part(range(batch_size))) for rank in range(self.size)]
        each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{min(sizes)} or {max(sizes)}"
        lines = [
            f"{self.size} processes ({idist.backend()}): batch {batch_size} in all, {each} a process; nothing is scaled"
        ]
        layers = list(model.modules())
        norms = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers)
        if norms and not any(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
            lines.append(
                "note: BatchNorm takes mean and variance of each process's slice, as there is no SyncBatchNorm on "
                "gloo: the result is not that of one process"
            )
        if any(isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in layers):
            lines.append("note: dropout draws other values than in one process")
        return lines

    def _hear(self, wish: float) -> None:
        if wish and self._stop is not None:
            self._stop.received = self._stop.heard or signal.SIGTERM

    def _reduce(self, tensor: Tensor, operation: str = "SUM") -> Tensor:
        try:
            reduced = idist.all_reduce(tensor, operation)
        except RuntimeError as error:
            if self._stop is not None:
                self._stop.lost = True
            raise _lost() from error
        assert isinstance(reduced, Tensor)
        return reduced

    # One call for all tensors of a type: one for each would cost a network's delay each.
    @torch.no_grad()
    def _sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            chosen = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = self._reduce(torch.cat([tensor.reshape(-1) for tensor in chosen]))
            sizes = [tensor.numel() for tensor in chosen]
            for tensor, part in zip(chosen, torch.split(flat, sizes), strict=True):
                tensor.copy_(part.view_as(tensor))


def group_of_this_process() -> Group:
    """The group that `launch` or torchrun put this process into; a single process without either."""
    return Group(launching.rank(), launching.size(), launching.local_rank())


def name_the_lost(error: BaseException) -> LostProcessError | None:
    """The sentence for what torch raises when another process is gone, if that is what an exception is about."""
    if isinstance(error, LostProcessError):
        return error
    return _lost() if launching.size() > 1 and _LOST.search(str(error)) else None


def _lost() -> LostProcessError:
    return LostProcessError(
        "another process of this training has ended, or has not answered",
        hint="the last checkpoint is whole, and `--resume` goes on from it, with any number of processes",
    )


class _AgreedStop(StopSignal):
    """A signal is kept until all processes have learnt of it; `received` is set in all of them alike."""

    def __init__(self, say: Say) -> None:
        super().__init__(say)
        self.heard: signal.Signals | None = None
        self.lost = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.lost:  # this process ends by itself, and says why; torchrun sends all the rest a SIGTERM
            return
        if not self.deferred:
            raise KeyboardInterrupt
        self.heard = signal.Signals(number)  # torchrun and the terminal may both send one: a second is no other
