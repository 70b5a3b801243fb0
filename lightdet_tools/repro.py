"""The pipeline under one profile: `dvc repro` with `profile:` of params.yaml set for it, and stages
that do not need each other side by side.

DVC has no parallel stages, but its processes may share a repository: the lock of .dvc/tmp is theirs
while they look and write, dvc.lock included, and not while a command runs.
"""

import json
import re
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from typing import Any

from lightdet_core.config import (
    Config,
    ConfigError,
    UserError,
    all_runs,
    load_config,
    parse_yaml,
    read_params,
    root,
)
from lightdet_core.machinery.files import split_paths, write_text
from lightdet_core.machinery.runs import check_links, check_start
from lightdet_tools.side_by_side import Job, conduct, slots

LINE = re.compile(r"""^(profile:[ \t]+)(?:"[^"\n]*"|'[^'\n]*'|[^\s#]+)(?!\S)""", re.M)
DVC = [sys.executable, "-m", "lightdet_tools.steady_dvc"]
CHATTER = re.compile(  # of DVC, which a person need not read
    r"$|> |(Updat|Generat)ing lock file|Use `dvc push`|Stage '.+' didn't change|To track the chang"
    r"|\s+git add|To enable auto staging|\s+dvc config core.autostage"
)


def set_profile(profile: str) -> str:
    """Make `profile` that of params.yaml, where nothing else changes; returns the one before.

    Raises:
        ConfigError: unknown profile, its settings are not in order, or DVC cannot look up its name
            in params.yaml; nothing is written.
    """
    load_config("c0", profile)
    before = read_params()["profile"]
    _write(profile)
    return before


def _write(profile: str) -> None:
    path = root() / "params.yaml"
    text = path.read_bytes().decode()
    params = parse_yaml(text)
    if params["profile"] == profile:
        return
    word = profile if parse_yaml(profile) == profile else json.dumps(profile)
    changed = LINE.sub(lambda line: line[1] + word, text, count=1)
    if parse_yaml(changed) != params | {"profile": profile}:
        raise ConfigError(f"{path}: a line `profile: {word}` is needed; write it by hand")
    write_text(path, changed)


def run_stages(profile: str, stages: list[str], tell: Callable[[str], None]) -> None:
    """`dvc repro` of these stages or of all, as many at once as there are cores.

    What is due runs first, each stage as a `dvc repro --single-item`; a plain `dvc repro` at the
    end, which as a rule finds nothing to run, takes care of what was not seen. Pictures, the place
    where they lie and the Pillow that reads them may change without a change of the settings: the
    stages that look at them always run, unless they are drawn; quickly, if nothing has changed.

    Args:
        profile: is that of params.yaml afterwards; unless all goes well, the one before is.
        stages: names, with or without profile and run; [] are all.
        tell: takes one line of text at a time.

    Raises:
        UserError: a link, an unknown profile, a run that begins with what one of the runs here
            replaces or, at the end, the stages that failed.
        KeyboardInterrupt: stopped; the same command continues.
    """
    check_links(profile)
    trained = all_runs(read_params())
    folders = [f"{run}-s0" for run in trained]  # DVC empties them before anything trains
    for run in trained:
        check_start(load_config(run, profile), root() / "runs" / profile, folders)
    before, polite = set_profile(profile), signal.signal(signal.SIGTERM, _stopped)
    try:
        with chdir(root()):
            looked_at = ("data", "pack") if _looks(load_config("c0", profile)) else ()
            if looked_at:
                _planned(stages)  # an unknown stage is said before anything runs
            for stage in looked_at:
                command = [*DVC, "repro", "--force", "--single-item", stage]
                conduct([Job(stage, command, one_thread=False)], 1, tell, worth_telling)
            jobs, is_due = due_stages(stages)
            at_once = 1
            if jobs:
                at_once = slots()
                tell(f"stages that are due or need one that is: {len(jobs)}, {at_once} at a time")
            names = frozenset(job.name for job in jobs)
            last = Job("dvc repro", [*DVC, "repro", *stages], names, one_thread=False)
            conduct([*jobs, last], at_once, tell, worth_telling, is_due)
    except BaseException:
        _write(before)
        raise
    finally:
        signal.signal(signal.SIGTERM, polite)


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt


def worth_telling(line: str) -> bool:
    """Whether a line of DVC, or of what it runs, says something to a person."""
    return not CHATTER.match(line)


def _looks(config: Config) -> bool:
    """Whether there are pictures to look at. (Where a variable that named them is not set any more,
    and only packs are left, nothing is downloaded for that.)"""
    source = config.data.source
    return source == "folder" or (source != "demo" and split_paths(config, "val")[1].is_dir())


def _planned(stages: list[str]) -> tuple[Any, list]:
    """DVC's graph, from a stage to those that it needs, and these stages with what they need.

    None and no stages where DVC cannot read the pipeline: `dvc repro` says why.

    Raises:
        UserError: an unknown stage.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, plan_repro
    from dvc.stage.exceptions import StageNotFound

    try:
        repo = Repo()
        graph = repo.index.graph
        return graph, plan_repro(graph, collect_stages(repo, stages) if stages else None)
    except StageNotFound as error:
        raise UserError(
            f"{error}; trainings there: {', '.join(all_runs(read_params()))}, "
            "any other is made by `lightdet train`"
        ) from None
    except DvcException:
        return None, []


def due_stages(stages: list[str]) -> tuple[list[Job], Callable[[Job], bool]]:
    """The stages that are due or need one that is, and what says whether one still is.

    A notebook takes one thread, and so does a training unless it is the only one asked for, due or
    not. (If what is due decided, the last training of a pipeline that was stopped would go on with
    other threads than it began with, to other weights.)

    Args:
        stages: as DVC takes them; [] are all. What they need is among them.

    Raises:
        UserError: an unknown stage.

    Returns:
        Jobs in the order of dvc.yaml, so that trainings come before notebooks, and a function that
        looks at the files of one. No jobs where DVC cannot read the pipeline: `dvc repro` says why.
    """
    from dvc.exceptions import DvcException

    graph, planned = _planned(stages)
    by_name = {stage.addressing: stage for stage in planned}

    def is_due(job: Job) -> bool:
        try:
            return job.name not in by_name or _changed(by_name[job.name])
        except DvcException:
            return True  # it says why when it runs

    kinds = {name: stage.cmd.partition("lightdet_tools ")[2] for name, stage in by_name.items()}
    trainings = {name for name, kind in kinds.items() if kind.startswith("train ")}
    single = {name for name, kind in kinds.items() if kind.startswith("notebook run ")}
    single |= trainings if len(trainings) > 1 else set()
    jobs: dict[str, Job] = {}
    for name, stage in by_name.items():  # what a stage needs comes before it
        after = {needed.addressing for needed in graph.successors(stage)} & jobs.keys()
        command = [*DVC, "--wait-for-lock", "repro", "--single-item", name]
        job = Job(name, command, frozenset(after), name in single)
        if after or is_due(job):
            jobs[name] = job
    return list(jobs.values()), is_due


def _changed(stage: Any) -> bool:
    """As DVC asks before it runs a stage, but without its locks: when this is asked, nobody writes
    these files, for what the stage needs has ended."""
    files = (*stage.deps, *stage.outs)
    return stage.changed_stage() or any(file.status() for file in files)
