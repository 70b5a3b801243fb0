"""Training on many processes: one per GPU, on one machine or on several; without GPUs, on a CPU.

The global batch is what counts. Process r of n takes the rows r B / n to (r + 1) B / n of every
batch, whose random numbers are drawn alike everywhere; losses are divided by normalisers of the
global batch (`total`), so that gradients of the processes just add up (`sum_gradients`). With batch
norm over all processes, too, a step computes what one process would, up to rounding.
All processes hold the same state after every step; the first one alone writes files. What is on the
CPU, flags and objects, travels through gloo: no wait for the GPU.

Without `launch` or `torchrun` there is one process, and nothing here does anything.
"""

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d, DropPath, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from lightdet_core.config import TrainConfig, UserError

WORTH_A_GPU = 8  # images of a batch
STOPS = (signal.SIGINT, signal.SIGTERM)


def count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The place of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wanted(device: torch.device, batch_size: int) -> int:
    """How many to start: LIGHTDET_PROCESSES, else one on a CPU, or one per visible GPU while each
    has WORTH_A_GPU images.

    Raises:
        UserError: the variable is no number from 1 up, or there are fewer GPUs or images.
    """
    if device.index is not None:
        return 1  # this GPU and no other
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    text = os.environ.get("LIGHTDET_PROCESSES", "")
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
    """The rows of the global batch that this process computes; `UserError` if it has none."""
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
def sum_gradients(model: nn.Module) -> None:
    """Add the gradients of all processes, in place."""
    if count() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message for all
    dist.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process: all of them stop at the same step."""
    return bool(total(torch.tensor(int(flag))))


def from_first(value: Any) -> Any:
    """The first process's value, in all of them."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
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
    values = from_first(gather(value))
    if len(set(values)) > 1:
        raise UserError(f"the {count()} processes differ ({', '.join(values)}): {advice}")


# ---------------------------------------------------------------- layers that look at the batch


def _over_all(value: Tensor) -> Tensor:
    """`total` with a gradient: each process's share counts in every process's result."""
    return value if count() == 1 else all_reduce(value)


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes on a CPU; torch's own is for GPUs only.

    More exact than torch's for one process, whose sums (channels_last, fp32) left 6 % of error in
    the gradient of a small network, against float64, but slow: there it stays as it is.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        number = total(torch.tensor(float(input.numel() // input.shape[1])))
        mean = _over_all(values.sum((0, 2, 3))) / number
        centred = values - mean[:, None, None]
        variance = _over_all(centred.square().sum((0, 2, 3))) / number
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.get_buffer("running_mean").lerp_(mean, momentum)
            self.get_buffer("running_var").lerp_(variance * (number / (number - 1)), momentum)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _BatchNormAct(_BatchNorm):
    """The same for timm's batch norm, which holds the activation behind it."""

    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class _DropPath(DropPath):
    """Stochastic depth drawn for the global batch, of which this process takes its rows."""

    batch_size: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        kept = super().forward(x.new_ones(self.batch_size, 1, 1, 1))
        rows = own_rows(self.batch_size)
        return x * kept[rows.start : rows.stop]


def connect(model: Any, train: TrainConfig) -> Any:
    """Let stochastic depth and batch norm look at the whole batch, over all processes, in training.

    Names of weights stay. (On GPUs torch's batch norm over processes waits once per layer for the
    count of values.)

    Raises:
        UserError: batch norm over processes in half precision, which torch does not compute.
    """
    if count() == 1:
        return model
    if train.precision == "fp16-pure":
        raise UserError(
            "train.precision fp16-pure: batch norm over processes needs float32; train on one GPU "
            "(CUDA_VISIBLE_DEVICES=0), or take fp16"
        )
    for layer in model.modules():
        if isinstance(layer, DropPath):
            layer.__class__, layer.batch_size = _DropPath, train.batch_size  # type: ignore
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
def joined(device: torch.device) -> Generator[torch.device]:
    """Take part where `launch` or `torchrun` started this process; yields its own device."""
    if started() or not dist.is_torchelastic_launched():
        yield _own(device)
        return
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda":
        if (gpus := torch.cuda.device_count()) < local:
            raise UserError(
                f"{local} processes, but {gpus} GPUs on this machine: start one per GPU"
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


def launch(work: Callable[..., object], processes: int, progress: Callable[[str], None]) -> None:
    """Run `work(progress=…)` in new processes of this machine and wait for them.

    torch starts them, and ends all when one fails. Their lines and mistakes come back through a
    pipe, read between looks at whether they live.

    Raises:
        UserError: a user's mistake in a process, in its words, or a process was lost.
        RuntimeError: any other error of a process, with where it came from.
        KeyboardInterrupt: stopped, in the words of the processes.
    """
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # said below
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # a free port
    reader, writer = mp.get_context("spawn").Pipe(duplex=False)
    ended: dict[str, str] = {}
    failure = None

    def listen() -> None:
        while reader.poll():
            kind, text = reader.recv()
            if kind == "line":
                with suppress(Exception):  # a closed output must not stop the processes
                    progress(text)
            else:
                ended.setdefault(kind, text)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
    with interruptible(True, STOPS if ignored else (*STOPS, signal.SIGHUP)) as stop:
        arguments = (processes, store.port, writer, work)
        context: Any = mp.start_processes(_work, arguments, processes, join=False)
        try:
            while not context.join(0.1):
                listen()
                if stop.is_set():
                    for process in context.processes:
                        process.terminate()  # politely: `interruptible`
                    context.join(30)  # seconds for a checkpoint
                    break
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
            failure = error
        finally:
            for process in context.processes:
                process.kill()  # those that live
    listen()
    if "mistake" in ended:
        raise UserError(ended["mistake"])
    if "stopped" in ended or stop.is_set():
        raise KeyboardInterrupt(ended.get("stopped") or "stopped; run the same command to continue")
    if isinstance(failure, mp.ProcessExitedException):
        raise UserError(
            f"process {failure.error_index} of {processes} was lost (exit code "
            f"{failure.exit_code}); the others were ended, too. Run the same command to continue "
            "from the last checkpoint"
        )
    if failure:
        first = ended.get("failed", failure.error_index)  # the others fail with it
        trace = pickle.loads(Path(context.error_files[int(first)]).read_bytes())
        raise RuntimeError(f"process {first} of {processes}: {trace}")


def _work(place: int, processes: int, port: int, writer: Connection, work: Callable) -> None:
    """What every process runs, in the environment that `torchrun` would make."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a closed terminal: the first one ends them
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_RUN_ID": "launch", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for scope in ("", "LOCAL_"):
        os.environ |= {f"{scope}RANK": str(place), f"{scope}WORLD_SIZE": str(processes)}

    def tell(kind: str, text: object) -> None:
        # below the 4,096 bytes that a pipe takes in one write, which nothing can cut
        writer.send((kind, str(text)[:900]))

    try:
        work(progress=partial(tell, "line"))
    except (UserError, OSError) as error:
        tell("mistake", error)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        tell("stopped", error)
        raise SystemExit(130) from None
    except Exception:
        tell("failed", place)
        raise


@contextmanager
def interruptible(one_of_many: bool, signals: Sequence[int] = STOPS) -> Generator[threading.Event]:
    """Ctrl-C (or a polite kill) sets an event instead of ending in the middle of a step.

    A second one ends at once, but for one of many processes: these get it from the terminal and
    from `launch` or `torchrun`, which wait half a minute for them.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def on_signal(*_: object) -> None:
        if stop.is_set() and not one_of_many:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is kept")
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
