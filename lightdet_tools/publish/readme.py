"""Numbers in README and the guides that stand in tables, renewed between markers.

    <!-- begin: AP g1 -->49.4 ± 1.5<!-- end -->

The words around them are written by hand. (A line must not begin with a marker that has text behind
it: Markdown takes such a line for HTML.)
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lightdet_core.config import UserError, root
from lightdet_core.machinery.files import write_text
from lightdet_tools.report.claims import load_design
from lightdet_tools.table1.tables import read_latency, speed_table, title_of

# README's table; results/verdicts.md has all claims
CLAIMS = ("group-2", "group-3", "group-4", "group-5", "mish", "silu", "silu-leakyrelu", "gflv2")
CLAIMS += ("prune-silu", "prune-relu6", "ld", "ld-vlr-kd", "mosaic", "mixup")
DECIDED = ("supported", "contradicted")
VERDICTS = (*DECIDED, "not shown", "open", "not testable here")
LAST = ("experiment", "profile", "backbone", "input size", "seeds", "AP", "AP50")  # of make repro
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "ncnn": "ncnn", "torch": "torch"}
FAST = {"g5": "g5", "c0": "c0 (ReLU6)", "+hswish": "+hswish"}  # networks in the table by processor
QUICK = ("slim-fast", "slim-fastest")
FAST |= {name: name for name in ("slim-e3-layers", "slim-relu6", "slim-relu6-third", *QUICK)}
RANDOM = ("c0-scratch", "g5-scratch", "yolov4_tiny", "nanodet_m")  # begin with random weights
EXPORTED = ("onnxruntime", "openvino", "ncnn")
SMALL = EXPORTED[:2]  # which compute in 8 bits
OTHERS = {"bccd": "bccd", "minicoco": "people of minicoco"}  # data sets beside the demo
METRIC = {"minicoco": "AP of person"}
IN_8_BITS = ("demo", "minicoco")
CHOICE = {  # networks that a user may choose, and Table 1's rivals
    "g1": "`g1`", "g5": "`g5`", "c0": "`c0`, ReLU6", "+hswish": "`+hswish`",
    "dense-retrain": "`dense-retrain`, c0 trained twice", "slim-relu6": "`slim-relu6`",
    "slim-relu6-third": "`slim-relu6-third`", **{name: f"`{name}`" for name in QUICK},
    "c0-scratch": "`c0` from random weights", "yolov4_tiny": "YOLOv4-tiny from random weights",
    "nanodet_m": "NanoDet-m from random weights",
}  # fmt: skip
SPEEDS = ("speed/latency", "demo/benchmarks/latency-*")  # below results: one file per processor
WIDE, SLIM = "dense-retrain", "slim-relu6"  # as long trained
NO_RUNS = "no such runs yet"
NO_PROFILE = "\n(not measured yet)\n"
PART = re.compile(r"(<!-- begin: (.+?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and the guides of the site."""
    return [root() / "README.md", *sorted((root() / "docs").glob("*.md"))]


def renewed(text: str, parts: dict[str, str]) -> str:
    """The text with each marked part as `parts` has it.

    Raises:
        UserError: a part that is not among them, or has no end before the next one.
    """

    def put(match: re.Match) -> str:
        begin, name, old, end = match.groups()
        if "<!--" in old:  # all up to the next part's end would go
            raise UserError(f"{begin}: without <!-- end -->, on one line, before the next <!--")
        if name not in parts:
            raise UserError(f"<!-- begin: {name} -->: choose one of {', '.join(parts)}")
        return begin + parts[name] + end

    return PART.sub(put, text)


def parts(read: Callable[[str], pd.DataFrame], speeds: list[dict]) -> dict[str, str]:
    """Every part by its name.

    Args:
        read: a table below `results`, by its path without .csv, all cells as text.
        speeds: what `lightdet latency` measured, one per processor.

    Returns:
        `AP <run>` of the demo, of the groups and of what begins with random weights; `<claim of
        design.yaml>` with its verdict; `tally` of all verdicts with the claims that are decided;
        `times`, `slim`; and on lines of their own `claims`, `choice`,
        `int8`, `processors`, `operators` and `last lines` (of `make repro`).
    """
    groups, found, speed = (
        read(x) for x in ("demo/tables/table2", "verdicts", "demo/tables/table1")
    )
    known = load_design()
    tiers = [t for t in known["seeds"] if set(found[t]) - {"", "no runs yet"}]
    rows = {key: found[found["claim"] == known["claims"][key]["claim"]] for key in known["claims"]}
    if missing := [key for key, row in rows.items() if len(row) != 1]:
        raise UserError(f"verdicts: no row of {', '.join(missing)}; `lightdet verdicts` writes it")
    claims = {key: row.iloc[0] for key, row in rows.items()}
    every = read("demo/tables/variants")
    variants = every[every["int8 in"] == ""].set_index("experiment")
    ours = speed.set_index("model").loc["LightDet g5"]
    ratios = {words: ours[f"{runtime} ratio"] for runtime, words in RUNTIMES.items()}
    return {
        **{f"AP {row['experiment']}": _spread(row, "AP") for _, row in groups.iterrows()},
        **{f"AP {run}": _random(variants, run) for run in RANDOM},
        **{key: _answer(row, tiers) for key, row in claims.items()},
        "tally": _tally(found),
        "times": ", ".join(f"{ratio} in {words}" for words, ratio in ratios.items()),
        "slim": _slimmed(variants),
        "claims": _claims([claims[key] for key in CLAIMS], tiers),
        "choice": _choice(every, {tier: read(f"{tier}/tables/ladder") for tier in OTHERS}),
        "int8": _int8({tier: read(f"int8/{tier}") for tier in IN_8_BITS}),
        "processors": _processors(speeds),
        "operators": _operators(speeds),
        "last lines": _last_lines(groups),
    }


def _spread(row: pd.Series, metric: str) -> str:
    """Mean ± standard deviation, this only where there are seeds for it; rounded once, there."""
    return " ± ".join(value for value in (row[metric], row[f"{metric} std"]) if value)


def _slimmed(variants: pd.DataFrame) -> str:
    """AP of the narrow network and of the wide one, and its share of YOLOv4-tiny's time."""
    if not {WIDE, SLIM} <= set(variants.index):
        return NO_RUNS
    wide, slim = variants.loc[WIDE], variants.loc[SLIM]
    counts = slim["seeds"], wide["seeds"]
    seeds = "{} and {} seeds".format(*counts) if len({*counts}) > 1 else f"{counts[0]} seeds each"
    return f"AP {slim['AP']} beside {wide['AP']} ({seeds}), {_shares(slim)}"


def _random(variants: pd.DataFrame, run: str) -> str:
    return _spread(variants.loc[run], "AP") if run in variants.index else NO_RUNS


def _shares(row: pd.Series) -> str:
    size = "ratio at the paper's size"
    times = [f"{row[f'{name} {size}']} in {words}" for name, words in list(RUNTIMES.items())[:3]]
    return f"time {', '.join(times)}"


def _tally(found: pd.DataFrame) -> str:
    """How many claims have each verdict; those that are decided by name."""
    parts = []
    for name in VERDICTS:
        claims = found["claim"][found["verdict"] == name]
        named = f" ({'; '.join(claims)})" if name in DECIDED else ""
        parts += [f"{len(claims)} {name}{named}"] if len(claims) else []
    return ", ".join(parts)


def _answer(row: pd.Series, tiers: list[str]) -> str:
    """A claim's verdict, and its difference on each profile that has runs."""
    shown = [f"{tier} {row[tier]}" for tier in tiers if row[tier] not in ("", "no runs yet")]
    return f"{row['verdict']} ({'; '.join(shown)})" if shown else row["verdict"]


def _claims(rows: list[pd.Series], tiers: list[str]) -> str:
    columns = ["claim", "printed", *tiers, "verdict"]
    return _table([columns, *([row[name] for name in columns] for row in rows)])


def _table(lines: list[list[str]]) -> str:
    """Markdown, on lines of its own, of a head and rows."""
    head, *rows = lines
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _processors(speeds: list[dict]) -> str:
    """Networks' times as shares of YOLOv4-tiny's, by processor and runtime."""
    lines = [["processor", "runtime", *FAST.values()]]
    for found in speeds:
        table = speed_table(found).query("part == 'network'")
        ratios = table.set_index(["runtime", "system"])["ratio"]
        for runtime, words in RUNTIMES.items():
            timed = [ratios.get((runtime, system), math.nan) for system in FAST]
            shares = ["" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in timed]
            processor = found["hardware"].split(",")[0].replace("(R)", "")
            lines.append([processor, words, *shares])
    return _table(lines)


def _operators(speeds: list[dict]) -> str:
    """ONNX Runtime's time by kind of node, of the first processor that has it."""
    lines = [["network", "convolutions, ms", "SiLU, ms", "other nodes, ms", "in all, ms"]]
    found = next((speed for speed in speeds if speed.get("operators")), None)
    if found is None:
        return NO_PROFILE
    times = pd.DataFrame(found["operators"])
    table = times.pivot(index="system", columns="operator", values="ms").fillna(0)
    for system in times["system"].unique():
        row = table.loc[system]
        conv, silu, every = row.get("Conv", 0.0), row.get("QuickGelu", 0.0), row.sum()
        cells = [f"{ms:.1f}" for ms in (conv, silu, every - conv - silu, every)]
        lines.append([title_of(found, system), *cells])
    return _table(lines)


def _choice(variants: pd.DataFrame, others: dict[str, pd.DataFrame]) -> str:
    """Accuracy on each data set beside time: in fp32 and, after a stroke, in 8 bits."""
    lines = [["network", "demo", *OTHERS.values(), *(RUNTIMES[name] for name in EXPORTED)]]
    for run, words in CHOICE.items():
        aps = [_accuracy(variants[variants["int8 in"] == ""], run, "AP")]
        for tier, table in others.items():
            aps.append(_accuracy(table, run, METRIC.get(tier, "AP")))
        times = []
        for runtime in EXPORTED:
            rows = variants[variants["experiment"] == run].set_index("int8 in")
            ratios = rows[f"{runtime} ratio at the paper's size"].get
            times.append(" / ".join(filter(None, (ratios(""), ratios(runtime)))))
        lines.append([words, *aps, *times])
    return _table(lines)


def _accuracy(table: pd.DataFrame, run: str, metric: str) -> str:
    rows = table[table["experiment"] == run]
    return _spread(rows.iloc[0], metric) if len(rows) else ""


def _int8(tables: dict[str, pd.DataFrame]) -> str:
    """AP of runs, and by how much that of their int8 files is another."""
    lines = [["data", "network", "runs", "AP in torch", *(f"in {RUNTIMES[r]}" for r in SMALL)]]
    for tier, table in tables.items():
        for run, rows in table.groupby("experiment", sort=False):
            found = rows.set_index("runtime")
            first = found.iloc[0]
            changes = [_change(found.loc[runtime]) for runtime in SMALL]
            lines.append([tier, f"`{run}`", first["seeds"], first["AP in torch"], *changes])
    return _table(lines)


def _change(row: pd.Series) -> str:
    mean, low, high = (f"{float(row[k]):+.2f}" for k in ("change", "lowest", "highest"))
    return f"{mean} ({low} to {high})" if row["seeds"] != "1" else mean


def _last_lines(groups: pd.DataFrame) -> str:
    """Table 2 as the terminal shows it, cut to what fits a page."""
    lines = [list(LAST)]
    for _, row in groups.iterrows():
        lines.append([*row[list(LAST[:-2])], *(_spread(row, name) for name in LAST[-2:])])
    shown = (f"| {' | '.join([*cells[:4], '…', *cells[4:]])} | …\n" for cells in lines)
    end = "Tables, figures and executed notebooks: results/demo/; weights: runs/demo/"
    return f"\n```\n{''.join(shown)}\n{end}\n```\n"


def table_of(name: str) -> pd.DataFrame:
    """A table below results/ as `parts` takes it; `UserError` where it is missing."""
    path = root() / "results" / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"{path}: not found; `make repro` and `lightdet verdicts` write the tables")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def renew() -> list[Path]:
    """Renew the pages from results/; returns those that have changed."""
    files = [path for name in SPEEDS for path in sorted((root() / "results").glob(f"{name}.json"))]
    current, changed = parts(table_of, [read_latency(path) for path in files]), []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        try:
            new = renewed(text, current)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if new != text:
            write_text(path, new)
            changed.append(path)
    return changed
