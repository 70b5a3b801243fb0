"""Times: of calls in turns, of CUDA graphs, of what a device has been given."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ROUNDS = 6
LEAST = 5  # calls of the slowest
SLOW = 0.1  # seconds of a call that fills the caches by itself


def clock(device: torch.device) -> float:
    """Seconds, when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def timed(times: dict[str, list[float]], device: torch.device, name: str) -> Iterator[None]:
    """Add the seconds that it takes to `times[name]`."""
    start = clock(device)
    yield
    times[name].append(clock(device) - start)


def interleaved(
    calls: dict[object, Callable[[], object]],
    seconds: float,
    rounds: int = ROUNDS,
    least: int = LEAST,
) -> dict[object, list[float]]:
    """Seconds of each call, measured in turns.

    In every round each has its turn, in an order that is drawn anew: a call that does not count
    (the first after others' took up to 8 % longer, the second did not; none where one takes SLOW
    seconds: there even the first counts), then its share of the measured.

    Args:
        calls: what to time, by name; what takes most of its time has run before.
        seconds: for each of them; the slowest get `least` calls, whatever these take.
        rounds: turns that the calls of each are spread over.
    """
    times, wanted, warm, draw = {name: [] for name in calls}, {}, {}, random.Random(0)
    for name, call in calls.items():
        took = _seconds(call)
        warm[name] = took < SLOW
        if warm[name]:
            took = _seconds(call)
        else:
            times[name].append(took)
        wanted[name] = max(least, int(seconds / took))
    for number in range(1, rounds + 1):
        for name in draw.sample(list(calls), len(calls)):
            due = wanted[name] * number // rounds - len(times[name])
            if due and warm[name]:
                calls[name]()
            times[name] += [_seconds(calls[name]) for _ in range(due)]
    return times


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def captured(call: Callable[[], object]) -> tuple[torch.cuda.CUDAGraph, object]:
    """A call as one CUDA graph, and what it returned: replays write there again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is loaded lazily must not be captured
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    return graph, found


@torch.inference_mode()
def cuda_graph(model: nn.Module, images: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """The network as one CUDA graph, so that no time goes into launching kernels.

    Args:
        images: of the shape, format and device that it will get.

    Returns:
        From images to the outputs, in the same memory every time, when they are there.
    """
    images = images.clone()
    graph, outputs = captured(lambda: list(model(images)))

    @torch.inference_mode()
    def network(x: Tensor) -> list[Tensor]:
        images.copy_(x)
        graph.replay()
        torch.cuda.synchronize()
        return outputs

    network.model = model  # the graph reads its weights, but does not keep them
    return network


def milliseconds(call: Callable[[], object], device: torch.device, calls: int = 20) -> float:
    """Median time of a call; on a GPU of ten graphs of `calls`, so that no launch counts."""
    if device.type != "cuda":
        return 1000 * statistics.median(interleaved({"": call}, 0.001)[""])

    def repeated() -> None:
        for _ in range(calls):
            call()

    (graph, _), times = captured(repeated), []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    return statistics.median(times[2:])
