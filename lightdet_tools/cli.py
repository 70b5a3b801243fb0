"""The command `lightdet`; also `python -m lightdet_tools`, which runs the code of this folder.

Torch takes seconds to import: each command imports what it needs when it runs, after its settings
are read, so that `--help` and mistakes in params.yaml are answered at once.
"""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

try:
    import typer
    from typer.core import TyperGroup

    from lightdet_core.config import (
        ConfigError,
        UserError,
        all_runs,
        load_config,
        read_params,
        root,
    )
    from lightdet_tools.cli_groups import begin, gpu, notebook, option, share_cores, told
except KeyboardInterrupt:
    sys.exit(130)

SECTIONS = LEARN, USE, MEASURE, BUILD = [
    {"rich_help_panel": name} for name in ("Learn", "Use", "Measure", "Build")
]


class Sections(TyperGroup):
    """Commands whose help lists them by section, without rich, which takes longer than the rest."""

    def format_commands(self, _: typer.Context, formatter: object) -> None:
        for section in SECTIONS:
            rows = [
                (name, command.get_short_help_str(80))
                for name, command in self.commands.items()
                if command.rich_help_panel == section["rich_help_panel"]
            ]
            with formatter.section(section["rich_help_panel"]):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Sections,
    help="A light-weight object detector: train, use, measure it.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Profile = Annotated[
    str | None, option("of params.yaml, such as demo; default: the one that it names")
]
OneProfile = Annotated[str, option("of params.yaml, such as demo")]


@app.command(**LEARN)
def data(profile: OneProfile) -> None:
    """Get a profile's data into COCO format."""
    config = load_config("c0", profile)
    begin(f"data of {profile}")
    from lightdet_tools.data.sources import prepare

    print(f"wrote {prepare(config).relative_to(root())}")


@app.command(**LEARN)
def pack(
    profile: OneProfile,
    skip_broken: Annotated[
        bool, option("leave out what is broken, with a count", "--skip-broken")
    ] = False,
) -> None:
    """Pack a profile's images for training."""
    params = read_params()
    configs = [load_config(run, profile, params=params) for run in all_runs(params)]
    for run in params["rivals"]:
        with suppress(ConfigError):  # where it does not fit a profile, its training says so
            configs.append(load_config(run, profile, params=params))
    from lightdet_tools.data.pack import prepare_packs

    print(f"wrote {prepare_packs(configs, told, skip_broken).relative_to(root())}")


@app.command(**LEARN)
def train(
    experiment: Annotated[list[str], option("of params.yaml, such as g1")],
    profile: Profile = None,
    seed: Annotated[list[int] | None, option("of its random numbers", show_default="0")] = None,
) -> None:
    """Train and evaluate experiments.

    --experiment and --seed may be given many times. A run by itself takes all cores; several are
    trained side by side, seed by seed, with one thread each.
    """
    named = dict.fromkeys((name, number) for number in seed or [0] for name in experiment)
    params = read_params()
    configs = [load_config(name, profile, number, params) for name, number in named]
    if "DVC_ROOT" in os.environ:  # a stage
        from lightdet_core.machinery.runs import check_links

        check_links(configs[0].profile)
    if len(configs) > 1:
        begin(f"{len(configs)} runs of {configs[0].profile}")
        from lightdet_tools.side_by_side import train_all

        train_all(configs, told)
        return
    (config,) = configs
    begin(f"{config.run_name} of {config.profile}")
    share_cores()
    from lightdet_core.machinery import distributed
    from lightdet_core.machinery.runs import publish
    from lightdet_core.train import LIGHTDET, fit

    network = LIGHTDET
    if config.model.network != network.name:  # no stage of the pipeline, whose code this is not
        rivals = import_module("lightdet_tools.table1.rivals")
        network = rivals.NETWORKS[config.model.network]
    with distributed.joined(distributed.best_device()):  # several machines if by `torchrun`
        folder = fit(config, progress=told, network=network)
        if distributed.rank() == 0:
            publish(folder, config)
        if distributed.rank() == 0 and network is LIGHTDET:
            told(f"to use it: lightdet detect {folder}/weights.safetensors IMAGE --out found")


@app.command(**LEARN)
def repro(
    profile: OneProfile,
    stages: Annotated[list[str] | None, typer.Argument(help="default: all")] = None,
) -> None:
    """Run the pipeline, or STAGES of it, under a profile, side by side.

    (A plain `dvc repro` runs one stage after another, each on all cores.)
    """
    load_config("c0", profile)
    begin("looking for what is due")
    from lightdet_tools.repro import run_stages

    run_stages(profile, stages or [], told)


@app.command("profile", **LEARN)
def profile_(name: str) -> None:
    """Write another profile into params.yaml."""
    from lightdet_tools.repro import set_profile

    set_profile(name)


@app.command(**USE)
def detect(
    weights: Annotated[Path, typer.Argument(help=".safetensors, .onnx, ncnn's .param, .xml")],
    images: Annotated[list[Path], typer.Argument(help="images, folders of images, or videos")],
    out: Annotated[Path, option("folder for drawings and detections.json")],
    score: Annotated[float, option("boxes above it")] = 0.3,
    threads: Annotated[int, option("", show_default="all cores")] = os.cpu_count() or 1,
    overwrite: Annotated[bool, option("replace what is in --out", "--overwrite")] = False,
) -> None:
    """Detect objects on images and videos."""
    begin(f"detecting with {weights}")
    share_cores()
    from lightdet_tools.deploy.detect import detect_into

    detect_into(out, weights, images, score, threads, overwrite, told)


@app.command(**USE)
def export(
    weights: Annotated[Path, typer.Argument(help="weights.safetensors of a run")],
    form: Annotated[Literal["onnx", "ncnn", "openvino"], option("of the file", "--format")],
    out: Annotated[Path, option("folder for the files")],
    decoded: Annotated[bool, option("scores and boxes, not logits", "--decoded")] = False,
    uint8: Annotated[bool, option("input (B, S, S, 3) uint8; not ncnn", "--uint8")] = False,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        option("fp16: a smaller file; bf16: OpenVINO; int8: not ncnn, needs the training packs"),
    ] = "fp32",
    accuracy: Annotated[
        bool, option("AP of the file and of torch, on the run's val images", "--accuracy")
    ] = False,
) -> None:
    """Export a trained run to ONNX, ncnn or OpenVINO."""
    begin(f"exporting {weights}")
    from lightdet_tools.deploy import export

    judges = export.judged(weights) if accuracy else None  # missing images: before the work
    report = export.export(form, weights, out, decoded, uint8, precision, told)
    print("\n".join(export.summary(report)))
    if judges:
        entry = next(file for file in report["files"] if Path(file).suffix in export.ENTRIES)
        told(f"evaluating {entry}, then torch")
        print(export.compared(entry, *judges))
    elif precision == "int8":
        print("--accuracy says what 8 bits cost")


@app.command(**USE)
def slim(
    weights: Annotated[Path, typer.Argument(help="weights.safetensors of a run")],
    expansion: Annotated[float, option("the budget: what blocks so wide inside would take")],
) -> None:
    """Say how many inner channels each block should keep, for `model.inner`."""
    begin(f"reading {weights}")
    from lightdet_tools.deploy.widths import report

    print("\n".join(report(weights, expansion)))


@app.command(**USE)
def card(
    runs: Annotated[list[Path], typer.Argument(help="run folders, such as runs/demo/g5-s0")],
    out: Annotated[Path, option("a new folder")],
) -> None:
    """Copy weights for a release, with model cards and checksums."""
    begin("reading weights")
    from lightdet_tools.publish.card import write_release

    print("wrote", *write_release(runs, out))


@app.command(**MEASURE)
def plan(
    profile: Profile = None,
    ladder: Annotated[bool, option("the ladder's, too", "--ladder")] = False,
) -> None:
    """Hours, memory and disk of all experiments."""
    load_config("c0", profile)
    begin("measuring a few steps of each experiment")
    from lightdet_tools.cost.plan import estimate

    estimate(profile, ladder, told)


@app.command(**MEASURE)
def latency(
    systems: Annotated[
        list[str] | None, option("comparators, experiments", show_default="all")
    ] = None,
    runtimes: Annotated[list[str] | None, option("such as ncnn", show_default="all")] = None,
    seconds: Annotated[float, option("per system, runtime and part")] = 0.3,
    threads: int = min(2, os.cpu_count() or 1),
    out: Annotated[Path | None, option("", show_default="results/speed/latency.json")] = None,
    profile: Annotated[str, option("coco: all, at the paper's sizes; else its own")] = "coco",
) -> None:
    """Time every system of Table 1 on this machine.

    --systems and --runtimes may be given many times.
    """
    load_config("c0", profile)
    begin("timing")
    from lightdet_tools.table1.latency import medians, write_table

    written = write_table(systems, runtimes, seconds, threads, out, told, profile)
    print(f"{medians(written)}\nwritten to {written}")


@app.command(**MEASURE)
def accuracy(
    annotations: Annotated[Path, option("COCO json")],
    images: Annotated[Path, option("folder of its images")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMPARATOR", help="default: those whose weights are there"),
    ] = None,
    weights: Annotated[Path | None, option("", show_default="data/weights")] = None,
    out: Annotated[Path | None, option("", show_default="results/official")] = None,
) -> None:
    """Measure the AP of official weights, one set of images after the other.

    data/weights/README.md says where they come from; YOLOv3-tiny's are fetched.
    """
    begin("reading weights")
    from lightdet_tools.table1.official import write_accuracy

    write_accuracy(names, weights, annotations, images, out, told)


@app.command(**MEASURE)
def int8(
    experiment: Annotated[list[str], option("of params.yaml, whose runs are there")],
    profile: Profile = None,
    seed: Annotated[list[int] | None, option("of their random numbers", show_default="0")] = None,
) -> None:
    """What 8 bits cost: AP of runs in int8, beside torch's.

    --experiment and --seed may be given many times.
    """
    params = read_params()
    named = dict.fromkeys((name, number) for name in experiment for number in seed or [0])
    configs = [load_config(name, profile, number, params) for name, number in named]
    begin(f"{len(configs)} runs of {configs[0].profile} in 8 bits")
    share_cores()
    from lightdet_tools.table1.int8 import write_costs

    for path in write_costs(configs, told):
        print(path.relative_to(root()))


@app.command(**MEASURE)
def compare(profile: OneProfile) -> None:
    """Hold the runs here against those of the last commit."""
    load_config("c0", profile)
    begin("reading results")
    from lightdet_tools.publish.compare import report

    report(profile, told)


@app.command(**MEASURE)
def verdicts() -> None:
    """Write what all tiers say of the paper's claims (design.yaml)."""
    begin("reading results")
    from lightdet_tools.report.claims import of_all_tiers, write_verdicts

    write_verdicts(of_all_tiers(), root() / "results" / "verdicts.md")
    print("wrote results/verdicts.md")


@app.command(**BUILD)
def readme() -> None:
    """Renew the numbers in README and the guides, from results/."""
    begin("reading results")
    from lightdet_tools.publish.readme import renew

    changed = [path.relative_to(root()).as_posix() for path in renew()]
    print(f"renewed {', '.join(changed) or 'nothing: all numbers are those of results/'}")


@app.command(**MEASURE)
def benchmark(
    experiment: str = "c0",
    profile: Profile = None,
    batch_size: int = 8,
    input_size: Annotated[int | None, option("pixels", show_default="the experiment's")] = None,
    steps: int = 20,
    compare: Annotated[bool, option("whole steps, against the usual way", "--compare")] = False,
    side_by_side: Annotated[
        bool, option("trainings at a time against one, as they are set", "--side-by-side")
    ] = False,
) -> None:
    """Where the time of a training step goes."""
    config = load_config(experiment, profile)
    begin(f"timing steps of {experiment}")
    if side_by_side:
        if compare or input_size or (batch_size, steps) != (8, 20):
            raise UserError("--side-by-side trains as the experiment is set: without other options")
        from lightdet_tools.cost.throughput import write_throughput

        print(f"written to {write_throughput(config, 20, told).relative_to(root())}")
        return
    from lightdet_tools.cost.benchmark import write_times

    path = write_times(config, batch_size, input_size, steps, compare, told)
    print(f"written to {path.relative_to(root())}")


@app.command(**BUILD)
def site(
    profile: str = "demo",
    out: Annotated[Path | None, option("its folder", show_default="build/site")] = None,
) -> None:
    """Write the site of a profile's results: chapters, tables, figures, the API."""
    begin("building the site")
    from lightdet_tools.publish.site import build_site

    print(build_site(profile, (out or root() / "build" / "site").resolve()))


app.add_typer(gpu, name="gpu", **MEASURE)
app.add_typer(notebook, name="notebook", **BUILD)


def run(*words: str) -> None:
    """`lightdet WORDS`; whatever goes wrong is raised."""
    command = typer.main.get_command(app)
    with command.make_context("lightdet", list(words)) as context:
        command.invoke(context)


def run_cli(work: Callable[[], object]) -> None:
    """Run a command: a user's mistake ends in one line and exit code 2, Ctrl-C in 130."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError as error:
        out = select.poll()
        out.register(sys.stdout.fileno(), 0)
        if not out.poll(0):  # another pipe
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left
        sys.exit(141)  # as a shell says of SIGPIPE: `| head` has what it wanted
    except typer.Exit as end:  # of --help
        sys.exit(end.exit_code)
    except typer.TyperException as error:
        where = getattr(error, "ctx", None)
        hint = f" (see {where.command_path} --help)" if where else ""
        message = " ".join(error.format_message().split()).rstrip(".")
        print(f"error: {message}{hint}", file=sys.stderr)
        sys.exit(2)
    except (UserError, OSError) as error:  # OSError: disk full, no permission, …
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "lightdet").startswith("lightdet"):
            raise
        remedy = "in the repository, pip install '.[deploy,table1,notebooks,imagenet]' has it"
        print(f"error: {error.name} is not installed; {remedy}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        sys.exit(130)


def main(words: list[str] | None = None) -> None:
    """`lightdet`, with the words of the command line or these."""
    run_cli(lambda: run(*(sys.argv[1:] if words is None else words)))
