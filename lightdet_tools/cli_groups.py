"""The commands `lightdet gpu …` and `lightdet notebook …`, and what commands are written with."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from lightdet_core.config import root

gpu = typer.Typer(help="Everything that needs a GPU, in one go.")
notebook = typer.Typer(help="Check, extract, link or run notebooks.")
told = partial(print, flush=True)
BUSY = 30  # percent of all cores


def option(text: str, *names: str, **more: object) -> object:
    return typer.Option(*names, help=text, **more)


def begin(what: str) -> None:
    """The first line of a command, before torch is imported, which takes seconds."""
    told(f"{what} …")


def share_cores() -> None:
    """Where other work runs, threads that spin while they wait for each other make both crawl.

    A run by itself takes all cores (of several each has one thread: side_by_side.py).
    Two trainings (g1, demo) on two cores: 35 steps of 4 images were not done in a minute, asleep
    they ran at 17 images/s each; `detect` (g5) beside five processes took 417 ms a picture, asleep
    97. On idle cores spinning is quicker, 30 images/s to 16. Torch must not be loaded yet.
    """
    import psutil

    if os.environ.get("OMP_NUM_THREADS") == "1" or "OMP_WAIT_POLICY" in os.environ:
        return  # one thread waits for nobody
    if (busy := psutil.cpu_percent(0.5)) > BUSY:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        told(f"other work takes {busy:.0f} % of the cores: threads wait for each other asleep")


@gpu.command("run")
def gpu_run(
    bundle: Annotated[Path | None, option("the folder of `make gpu`")] = None,
    out: Annotated[Path | None, option("folder of the results")] = None,
    budget: Annotated[float, option("seconds of all steps")] = 560,
    rehearse: Annotated[bool, option("in small, on any machine", "--rehearse")] = False,
    step: Annotated[str | None, option("this one only, in this process")] = None,
    train: Annotated[
        tuple[str, str, int] | None, option("one run only", metavar="RUN PROFILE SEED")
    ] = None,
) -> None:
    """Run the steps, each in a process of its own; this is what build/gpu/run starts."""
    from lightdet_tools.cost.gpu import run

    run(bundle, out, budget, rehearse, step, train)


@gpu.command("bundle")
def gpu_bundle() -> None:
    """Make build/gpu: what a GPU machine without a network needs."""
    told("collecting data, weights and wheels …")
    from lightdet_tools.cost.gpu_bundle import bundle

    bundle(root() / "build" / "gpu", progress=told)
    print("take build/gpu there with the checkout, then: bash build/gpu/run results/gpu")


@notebook.command("check")
def notebook_check() -> None:
    """Check the sources in notebooks/ against the rules."""
    told("checking notebooks …")
    from lightdet_tools.notebooks.run import check_all

    print(f"{check_all()} notebooks are in order")


@notebook.command("link")
def notebook_link() -> None:
    """Set the line numbers of their links to the core."""
    from lightdet_tools.notebooks.run import set_links, sources

    changed = [path.name for path in sources() if set_links(path)]
    print(f"line numbers set in {', '.join(changed) or 'no notebook: all are right'}")


@notebook.command("extract")
def notebook_extract(folder: Path) -> None:
    """Write their text, for DVC."""
    from lightdet_tools.notebooks.run import extract_all

    extract_all(folder)


class Pairs(TyperCommand):
    """A command whose option `given` takes two words each time; typer has no list of tuples."""

    def __init__(self, *args: object, params: list, **more: object) -> None:
        next(param for param in params if param.name == "given").nargs = 2
        super().__init__(*args, params=params, **more)


@notebook.command("run", cls=Pairs)
def notebook_run(
    source: Path,
    out: Path,
    given: Annotated[
        list[tuple] | None,
        option("a parameter", "-p", parser=tuple, metavar="NAME VALUE"),
    ] = None,
) -> None:
    """Execute one: SOURCE, with parameters, into OUT."""
    told(f"executing {source} …")
    from lightdet_tools.notebooks.run import execute

    execute(source, out, dict(given or []))
    print(f"written to {out}")
