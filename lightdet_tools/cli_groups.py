"""The commands `lightdet gpu …` and `lightdet notebook …`, and what commands are written with."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from lightdet_core.config import root

gpu = typer.Typer(help="Everything that needs a GPU, in one go.")
notebook = typer.Typer(help="Check, extract, link or run notebooks.")
told = partial(print, flush=True)


def option(text: str, *names: str, **more: object) -> object:
    return typer.Option(*names, help=text, **more)


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
