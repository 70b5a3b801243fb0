"""The paper's claims, what tests them (design.yaml), and what the runs say -> verdicts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from lightdet_core.config import UserError, load_config, read_params, read_yaml, root
from lightdet_tools.report.contrasts import contrasts, in_words, weights_of
from lightdet_tools.report.tables import seed_table, write_table

NOTE = """Differences in AP, percentage points, seed by seed. After ± stands, in a table of
verdicts, half of an interval; where there is a column `within`, this is it, and after ± stands the
standard deviation over the seeds. Intervals are wide enough for {family} to hold together with
95 %: those of all comparisons of design.yaml, once per look. Where one holds 0, nothing is shown.
`from seeds`, `from images`: standard errors (0.00: nothing beyond what the seeds explain). Teachers
are of seed 0 alone: what another would bring is in no interval."""
OF_CLASS = " In {tier} AP is that of the class {name}."
REDO = """`redo` trains what a row needs, for the first profile that says so; data come before
(`make repro PROFILE=… STAGES=pack`), and `lightdet verdicts` writes results/verdicts.md anew."""


def load_design(path: Path | None = None) -> dict:
    """design.yaml: `rule`, `assumed`, `claims`, `controls`, and by tier `seeds`, `looks` and
    `tested_class`.

    Raises:
        UserError: not YAML; a comparison that cannot be read, predicts something else than up or
            down, or is for a tier without seeds; neither comparison nor reason; less than one look.
    """
    path = path or root() / "design.yaml"
    design = read_yaml(path)
    for key in ("tested_class", "looks"):
        if unknown := set(design.get(key, {})) - set(design["seeds"]):
            raise UserError(f"{path}: {key}: no seeds for tier {', '.join(sorted(unknown))}")
    for tier, looks in design.get("looks", {}).items():
        if type(looks) is not int or looks < 1:
            raise UserError(f"{path}: looks: {tier}: {looks!r}: write a whole number from 1 on")
    known = read_params()["experiments"]
    for name, entry in {**design["claims"], **design["controls"]}.items():
        if "contrast" in entry:
            if strangers := weights_of(entry["contrast"]).keys() - known:
                raise UserError(f"{path}: {name}: no experiment {', '.join(sorted(strangers))}")
            entry.setdefault("tiers", list(design["seeds"]))
        elif "reason" not in entry:
            raise UserError(f"{path}: {name}: give it a contrast, or the reason why it has none")
        if entry.get("predicts", "up") not in ("up", "down"):
            raise UserError(f"{path}: {name}: predicts {entry['predicts']!r}: write up or down")
        if unknown := set(entry.get("tiers", [])) - set(design["seeds"]):
            raise UserError(f"{path}: {name}: no seeds for tier {', '.join(sorted(unknown))}")
    return design


def comparisons(design: dict, profile: str) -> list[str]:
    """What a tier compares; a profile that is none compares everything."""
    return [
        entry["contrast"]
        for entry in [*design["claims"].values(), *design["controls"].values()]
        if "contrast" in entry and (profile in entry["tiers"] or profile not in design["seeds"])
    ]


def family(design: dict) -> int:
    """Comparisons of all tiers, once per look: for so many at once the intervals hold."""
    looks = design.get("looks", {})
    return sum(looks.get(tier, 1) * len(comparisons(design, tier)) for tier in design["seeds"])


def verdicts(design: dict, differences: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per claim: as printed, what each profile shows, the verdict, the way to redo it.

    Args:
        differences: of `contrasts`, by profile. Claims that only other profiles test have no row.

    Returns:
        Columns claim, printed, one per profile (difference ± within, seeds), verdict (supported,
        contradicted, not shown, not testable here; open: runs are missing) and redo (a command,
        or why there is none).
    """
    rows = []
    for claim in design["claims"].values():
        contrast = claim.get("contrast")
        testing = [profile for profile in differences if contrast in comparisons(design, profile)]
        if not testing and "reason" not in claim:
            continue
        cells, answers = dict.fromkeys(differences, ""), []
        for profile in testing:
            seeds = design["seeds"].get(profile, [])
            cells[profile], answer = _answer(claim, differences[profile], len(seeds))
            answers.append(answer)
        about = {"claim": claim["claim"], "printed": claim["printed"]}
        verdict = claim.get("verdict") or _together(answers)
        decides = answers.index(verdict) if verdict in answers else 0
        command = redo(design, contrast, testing[decides]) if testing else claim["reason"]
        rows.append({**about, **cells, "verdict": verdict, "redo": command})
    return pd.DataFrame(rows)


def _answer(claim: dict, differences: pd.DataFrame, planned: int) -> tuple[str, str]:
    """A profile's difference and seeds in words, and what it says of a claim."""
    found = differences[differences["contrast"] == claim["contrast"]]
    if found.empty:
        return "no runs yet", "open"
    row = found.iloc[0]
    cell = in_words(row)
    if row["seeds"] < planned:
        return f"{cell} of {planned}", "open"
    if row["verdict"] not in ("up", "down"):
        return cell, "not shown"
    as_said = row["verdict"] == claim.get("predicts", "up")
    return cell, "supported" if as_said else "contradicted"


def _together(answers: list[str]) -> str:
    """The rule of design.yaml."""
    if not answers:
        return "not testable here"
    if "open" in answers:
        return "open"
    clear = {"supported", "contradicted"} & set(answers)
    return clear.pop() if len(clear) == 1 else "not shown"


def redo(design: dict, contrast: str, profile: str) -> str:
    """The command that trains a comparison's runs; what they learn from or start with is first."""
    runs = list(weights_of(contrast))
    params = read_params()
    configs = [load_config(run, profile) for run in runs if run in params["experiments"]]
    teachers = sorted({config.distill.teacher for config in configs} - {""})
    inits = sorted({config.train.init for config in configs} - {""})
    runs = sorted(dict.fromkeys([*inits, *runs]), key=lambda run: run not in [*teachers, *inits])
    outside = [teacher for teacher in teachers if teacher not in runs]  # only seed 0 teaches
    rows = [(outside, [0]), (runs, design["seeds"].get(profile, params["seeds"]))]
    return " && ".join(
        f"lightdet train {' '.join(f'--experiment {run}' for run in some)} "
        f"{' '.join(f'--seed {seed}' for seed in seeds)} --profile {profile}"
        for some, seeds in rows
        if some
    )


def note(design: dict, tiers: Iterable[str]) -> str:
    """What stands below tables of differences and verdicts."""
    named = design.get("tested_class", {})
    of_class = [OF_CLASS.format(tier=tier, name=named[tier]) for tier in tiers if tier in named]
    return NOTE.format(family=family(design)) + "".join(of_class)


def write_verdicts(differences: Mapping[str, pd.DataFrame], path: Path) -> pd.DataFrame:
    """`verdicts` of the design as `path`.md and .csv, with its rule below; returns them."""
    design = load_design()
    found = verdicts(design, differences)
    write_table(found, path, f"{note(design, differences)}\n\n{design['rule']}\n\n{REDO}")
    return found


def of_all_tiers() -> dict[str, pd.DataFrame]:
    """The comparisons of each tier, from results/.

    Raises:
        UserError: unreadable results.
    """
    design = load_design()
    return {
        tier: contrasts(seed_table(tier), comparisons(design, tier), family(design))
        for tier in design["seeds"]
    }
