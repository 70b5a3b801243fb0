"""Training on many processes: one per GPU, on one machine or on several; without GPUs, on a CPU.

The global batch is what counts. Process r of n takes the rows r B / n to (r + 1) B / n of every
batch, whose random numbers are drawn alike everywhere; losses are divided by normalisers of the
global batch (`total`), so that gradients of the processes just add up (`sum_gradients`). With batch
norm over all processes (`train.sync_bn`) a step computes what one process would, up to rounding.
All processes hold the same state after every step; the first one alone writes files.

Without `launch` or `torchrun` there is one process, and nothing here does anything.
"""

import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, DropPath, convert_sync_batchnorm
from torch import Tensor, nn

from lightdet_core.config import TrainConfig, UserError

WORTH_A_GPU = 8
LONGEST = 900  # characters of a line: below the 4,096 bytes that a pipe takes at once
CPU = torch.device("cpu")  # objects and flags travel through gloo: no wait for the GPU


def count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The place of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wanted(device: torch.device, batch_size: int) -> int:
    """How many to start: LIGHTDET_PROCESSES, else one per visible GPU, or one on a CPU.

    By itself no more than give each GPU WORTH_A_GPU images of a batch.

    Raises:
        UserError: the variable is no number from 1 up, or there are fewer GPUs or images.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    text = os.environ.get("LIGHTDET_PROCESSES", "")
    if device.index is not None:
        return 1  # this GPU and no other
    if not text:
        return max(1, min(gpus, batch_size // WORTH_A_GPU))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"LIGHTDET_PROCESSES={text}: a whole number from 1 up is needed")
    if device.type == "cuda" and int(text) > max(1, gpus):
        raise UserError(f"LIGHTDET_PROCESSES={text}: only {gpus} GPUs are visible")
    _check_number(int(text), batch_size)
    return int(text)


def _check_number(processes: int, batch_size: int) -> None:
    if batch_size < processes:
        raise UserError(
            f"train.batch_size {batch_size} is less than {processes} processes: start fewer, with "
            "LIGHTDET_PROCESSES or CUDA_VISIBLE_DEVICES"
        )


def own_rows(batch_size: int) -> range:
    """The rows of the global batch that this process computes.

    Raises:
        UserError: fewer images than processes.
    """
    place, processes = rank(), count()
    _check_number(processes, batch_size)
    return range(place * batch_size // processes, (place + 1) * batch_size // processes)


def total(value: Tensor) -> Tensor:
    """Sum over the processes, without a gradient; `value` itself if there is one process."""
    if count() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


@torch.no_grad()
def sum_gradients(model: nn.Module, average_buffers: bool) -> None:
    """Add the gradients of all processes, in place.

    Args:
        average_buffers: for batch norm by process, whose statistics differ: all take the mean.
    """
    if count() == 1:
        return
    _sum_in_place([p.grad for p in model.parameters() if p.grad is not None])
    if average_buffers:
        statistics = ("running_mean", "running_var")
        buffers = [b for name, b in model.named_buffers() if name.endswith(statistics)]
        _sum_in_place(buffers)
        torch._foreach_div_(buffers, count())


def _sum_in_place(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message for all
    dist.all_reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process: all of them stop at the same step."""
    if count() == 1:
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags)
    return bool(flags)


def from_first(value: object) -> object:
    """The first process's value, in all of them."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, device=CPU)
    return values[0]


def gather(value: object) -> list:
    """The values of all processes, in the first one; [] in the others."""
    if count() == 1:
        return [value]
    values = [None] * count() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def check_agreement(value: str, advice: str) -> None:
    """`UserError` with the advice where processes (machines) hold different values."""
    if count() == 1:
        return
    values = [None] * count()
    dist.all_gather_object(values, value)
    if len(set(values)) > 1:
        raise UserError(f"the {count()} processes differ ({', '.join(values)}): {advice}")


# ---------------------------------------------------------------- layers that look at the batch


class _Total(torch.autograd.Function):
    """`total` with a gradient: each process's share counts in every process's result."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return total(grad)


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes on a CPU; torch's own is for GPUs only.

    More exact than torch's for one process, whose sums (channels_last, fp32) left 6 % of error in
    the gradient of a small network, against float64, but slow: there it stays as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        number = total(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _Total.apply(values.sum((0, 2, 3))) / number
        centred = values - mean[:, None, None]
        variance = _Total.apply(centred.square().sum((0, 2, 3))) / number
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (number / (number - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _BatchNormAct(_BatchNorm):
    """The same for timm's batch norm, which holds the activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class _DropPath(DropPath):
    """Stochastic depth drawn for the global batch, of which this process takes its rows."""

    def __init__(self, drop_prob: float, batch_size: int):
        super().__init__(drop_prob)
        self.batch_size = batch_size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        ones = x.new_ones(self.batch_size, 1, 1, 1)
        kept = super().forward(ones)
        rows = own_rows(self.batch_size)
        return x * kept[rows.start : rows.stop]


def connect(model: nn.Module, train: TrainConfig) -> nn.Module:
    """Let the layers that look at the whole batch do so over all processes, in training.

    Stochastic depth always does, batch norm if asked. Names of weights stay. (On GPUs torch's batch
    norm over processes waits once per layer for the count of values.)

    Raises:
        UserError: batch norm over processes in half precision, which torch does not compute.
    """
    if count() == 1:
        return model
    if train.sync_bn and train.precision == "fp16-pure":
        raise UserError(
            "train.precision fp16-pure: batch norm over processes needs float32; set train.sync_bn "
            "to false, or take fp16"
        )
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, DropPath):
                setattr(module, name, _DropPath(layer.drop_prob, train.batch_size))
    if not train.sync_bn:
        return model
    on_gpu = next(model.parameters()).is_cuda
    return convert_sync_batchnorm(model) if on_gpu else own_batch_norm(model)


def own_batch_norm(model: nn.Module) -> nn.Module:
    """The model with the same weights under another rule, see `_BatchNorm`."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = _BatchNormAct if isinstance(layer, BatchNormAct2d) else _BatchNorm
    return model


# ------------------------------------------------------------------------------------- starting


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Take part where `launch` or `torchrun` started this process; yields its own device."""
    if started() or not dist.is_torchelastic_launched():
        yield _own(device)
        return
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda":
        if torch.cuda.device_count() < local:
            raise UserError(
                f"{local} processes, but {torch.cuda.device_count()} GPUs on this machine: start "
                "one per GPU"
            )
        torch.cuda.set_device(_own(device))
    elif local > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield _own(device)
    dist.destroy_process_group()  # not after an error: nccl would wait for the others


def best_device() -> torch.device:
    """The GPUs where there are some."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def started() -> bool:
    """Whether this process takes part already, be it as one of many or alone."""
    return dist.is_initialized()


def _own(device: torch.device) -> torch.device:
    """The device with its number; that of the process where the launcher gave it one."""
    if device.type != "cuda":
        return device
    if dist.is_torchelastic_launched():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


def launch(
    work: Callable[..., object],
    processes: int,
    progress: Callable[[str], None],
) -> None:
    """Run `work(progress=…)` in new processes of this machine and wait for them.

    torch's elastic launcher starts them, and ends all when one fails. Lines that the first one
    reports, and mistakes of any, come back to here.

    Raises:
        UserError: a user's mistake in a process, in its words, or a process was lost.
        RuntimeError: any other error of a process, with where it came from.
        KeyboardInterrupt: stopped, in the words of the processes.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # said below
    reader, writer = get_context("spawn").Pipe(duplex=False)
    ended: dict[str, str] = {}
    done = threading.Event()

    def listen() -> None:
        while reader.poll(0.1) or not done.is_set():
            if reader.poll():
                kind, text = reader.recv()
                if kind == "line":
                    with suppress(Exception):  # a closed output must not stop the processes
                        progress(text)
                else:
                    ended.setdefault(kind, text)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    failure, handlers = None, _handlers()
    try:
        elastic_launch(config, _work)(writer, work)
    except (ChildFailedError, SignalException) as error:
        failure = error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # the launcher leaves its own
        done.set()
        listener.join()
        reader.close()
        writer.close()
    if "mistake" in ended:
        raise UserError(ended["mistake"])
    if "stopped" in ended or isinstance(failure, SignalException):
        raise KeyboardInterrupt(ended.get("stopped", "stopped; run the same command to continue"))
    if failure:
        first = failure.get_first_failure()[1]
        which = f"process {first.local_rank} of {processes}"
        if isinstance(first.message, dict):  # an exception, with its text
            trace = first.message.get("extraInfo", {}).get("py_callstack", "")
            raise RuntimeError(f"{which}: {first.message['message']}\n{trace}")
        raise UserError(
            f"{which} was lost (exit code {first.exitcode}); the others were ended, too. Run the "
            "same command to continue from the last checkpoint"
        )


def _handlers() -> dict[int, object]:
    """The signal handlers of now; none outside of the main thread, to which they belong."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    return {number: signal.getsignal(number) for number in numbers}


def _work(writer: Connection, work: Callable[..., object]) -> None:
    """What every process runs."""

    def tell(kind: str, text: object) -> None:
        # short enough for one write, which no other process's and no kill can cut
        writer.send((kind, str(text)[:LONGEST]))

    try:
        work(progress=partial(tell, "line"))
    except (UserError, OSError) as error:
        tell("mistake", error)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        tell("stopped", error)
        raise SystemExit(130) from None
