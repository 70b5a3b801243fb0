"""The design can be read and names what is trained; verdicts follow its rule and nothing else."""

import io
import json
import re
import subprocess
import tarfile

import pandas as pd
import pytest
from conftest import HERE, use_root

from lightdet_core.config import UserError, all_runs, profiles, read_params, root
from lightdet_core.machinery.files import write_json
from lightdet_tools import cli
from lightdet_tools.report import claims, tables
from lightdet_tools.report.contrasts import contrasts, weights_of


def design(**entries):
    """A small one; `entries` are claims."""
    return {
        "rule": "the rule",
        "seeds": {"demo": [0, 1, 2], "bccd": [0]},
        "claims": {
            name: {"claim": name, "printed": "+1"} | entry for name, entry in entries.items()
        },
        "controls": {},
    }


def written(folder, **entries):
    (folder / "design.yaml").write_text(json.dumps(design(**entries)))
    return claims.load_design(folder / "design.yaml")


def differences(**rows):
    """Of a profile: name -> (difference, seeds, verdict), each against c0."""
    found = [
        {"contrast": f"{name} - c0", "difference": value, "seeds": seeds, "verdict": verdict,
         "within": float("nan") if verdict == "unknown" else 1.5}
        for name, (value, seeds, verdict) in rows.items()
    ]  # fmt: skip
    return pd.DataFrame(found, columns=["contrast", "difference", "within", "seeds", "verdict"])


def test_the_design_names_what_is_trained_and_where():
    found, params = claims.load_design(), read_params()
    assert set(found["seeds"]) <= set(profiles(params))
    everything = claims.comparisons(found, "custom")
    assert len(set(everything)) == len(everything)
    runs = {run for contrast in everything for run in weights_of(contrast)}
    assert runs <= set(params["experiments"])
    trained = {*all_runs(params), *params["ladder"], *params["slim"]} - {
        "teacher"
    }  # it only teaches
    assert trained <= runs
    of_tiers = {c for tier in found["seeds"] for c in claims.comparisons(found, tier)}
    assert set(everything) - of_tiers == {"+o3 - c0"}
    counts = {tier: len(claims.comparisons(found, tier)) for tier in found["seeds"]}
    assert claims.family(found) == sum(counts.values()) + counts["demo"]  # looked at twice
    assert {"up", "down"} >= {claim.get("predicts", "up") for claim in found["claims"].values()}


def test_printed_steps_are_those_of_the_paper():
    paper, found = tables.load_paper()["table2"], claims.load_design()["claims"]
    for name in ("group-2", "group-3", "group-4", "group-5", "group-5-1"):
        after, before = weights_of(found[name]["contrast"])
        step = paper[after]["printed"]["AP"] - paper[before]["printed"]["AP"]
        assert re.match(r"\+[\d.]+", found[name]["printed"])[0] == f"+{round(step, 2)}"
    for claim in found.values():
        if " in +" in f" {claim['printed']}":
            assert re.search(r"\+[\d.]+", claim["printed"])[0] in ("+2.65", "+0.26", "+2.11")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({}, "one: give it a contrast, or the reason"),
        ({"contrast": "g1 - c0", "predicts": "more"}, "one: predicts 'more': write up or down"),
        ({"contrast": "a + a"}, "'a \\+ a': write runs"),
        ({"contrast": "g1 - c0", "tiers": ["coco", "demo"]}, "one: no seeds for tier coco$"),
        ({"contrast": "g1 - b"}, "one: no experiment b$"),
    ],
)
def test_mistakes_in_the_design_are_named(tmp_path, entry, problem):
    with pytest.raises(UserError, match=problem):
        written(tmp_path, one=entry)
    path = tmp_path / "design.yaml"
    for key, value in (("tested_class", "person"), ("looks", 2)):
        path.write_text(json.dumps(design() | {key: {"coco": value}}))
        with pytest.raises(UserError, match=rf"{key}: no seeds for tier coco$"):
            claims.load_design(path)
    for looks in (0, "two", True):
        path.write_text(json.dumps(design() | {"looks": {"demo": looks}}))
        with pytest.raises(UserError, match=rf"looks: demo: {looks!r}: write a whole number"):
            claims.load_design(path)
    path.write_text("claims: {")
    with pytest.raises(UserError, match=r"design\.yaml: not YAML"):
        claims.load_design(tmp_path / "design.yaml")


def test_tiers_compare_what_they_are_for_and_other_profiles_everything(tmp_path):
    found = written(
        tmp_path,
        both={"contrast": "+silu - c0"},
        one={"contrast": "+mish - c0", "tiers": ["demo"]},
        none={"contrast": "+amp - c0", "tiers": [], "reason": "a GPU"},
        words={"reason": "no images"},
    )
    assert claims.comparisons(found, "demo") == ["+silu - c0", "+mish - c0"]
    assert claims.comparisons(found, "bccd") == ["+silu - c0"]
    assert claims.comparisons(found, "custom") == ["+silu - c0", "+mish - c0", "+amp - c0"]
    assert claims.family(found) == 3
    assert claims.family(found | {"looks": {"demo": 3}}) == 7


@pytest.mark.parametrize(
    ("demo", "bccd", "verdict"),
    [
        ((2.0, 3, "up"), (2.0, 1, "up"), "supported"),
        ((2.0, 3, "up"), None, "open"),
        ((2.0, 3, "up"), (1.0, 1, "none shown"), "supported"),
        ((2.0, 2, "up"), (1.0, 1, "none shown"), "open"),  # a seed is missing
        ((2.0, 2, "up"), None, "open"),
        (None, None, "open"),
        ((2.0, 3, "up"), (-2.0, 1, "down"), "not shown"),  # against each other
        ((-2.0, 3, "down"), (0.0, 1, "unknown"), "contradicted"),
    ],
)
def test_verdicts_follow_the_rule(tmp_path, demo, bccd, verdict):
    found = written(
        tmp_path,
        gains={"contrast": "+silu - c0"},
        loses={"contrast": "+silu - c0", "predicts": "down"},
    )
    each = {"demo": demo, "bccd": bccd}
    by_profile = {p: differences(**({"+silu": row} if row else {})) for p, row in each.items()}
    gains, loses = claims.verdicts(found, by_profile)["verdict"]
    turned = {"supported": "contradicted", "contradicted": "supported"}
    assert (gains, loses) == (verdict, turned.get(verdict, verdict))


def test_the_table_says_what_each_profile_shows_and_how_to_redo_it(tmp_path):
    found = written(
        tmp_path,
        gains={"contrast": "+silu - c0"},
        alone={"contrast": "+mish - c0", "tiers": ["demo"]},
        taught={"contrast": "+ld - c0"},
        speed={"reason": "two cards", "printed": "362 FPS"},
        size={"reason": "counted", "verdict": "supported"},
    )
    rows = differences(**{"+silu": (2.345, 3, "up"), "+mish": (-0.1, 2, "down")})
    table = claims.verdicts(found, {"demo": rows, "bccd": differences()}).set_index("claim")
    assert table.columns.tolist() == ["printed", "demo", "bccd", "verdict", "redo"]
    assert table["demo"].tolist() == [
        "+2.35 ± 1.50, 3 seeds", "-0.10 ± 1.50, 2 seeds of 3", "no runs yet", "", ""
    ]  # fmt: skip
    assert table["bccd"].tolist() == ["no runs yet", "", "no runs yet", "", ""]
    assert table.loc["speed"].tolist()[-2:] == ["not testable here", "two cards"]
    assert table.loc["size"].tolist()[-2:] == ["supported", "counted"]
    assert table.loc["gains", "redo"] == (
        "lightdet train --experiment +silu --experiment c0 --seed 0 --profile bccd"
    )  # whose runs are missing
    other = {"demo": differences(**{"+silu": (1, 3, "unclear")}), "bccd": rows}
    assert claims.verdicts(found, other)["redo"][0].endswith("--profile bccd")  # that decides it
    only = claims.verdicts(found, {"bccd": differences(**{"+silu": (1, 1, "unknown")})})
    assert only["bccd"].tolist() == ["+1.00, 1 seed", "no runs yet", "", ""]
    assert only["verdict"].tolist() == ["not shown", "open", "not testable here", "supported"]
    assert only["claim"].tolist() == ["gains", "taught", "speed", "size"]
    assert only["redo"][0].endswith("--experiment c0 --seed 0 --profile bccd")


def test_the_note_says_whose_ap_it_is():
    found = claims.load_design()
    assert claims.note(found, ["demo", "minicoco"]).endswith(
        "in no interval. In minicoco AP is that of the class person."
    )
    assert claims.note(found, ["demo"]).endswith("in no interval.")


def test_what_a_run_learns_from_is_trained_first(tmp_path):
    found = written(tmp_path)
    assert claims.redo(found, "g5 - g4", "bccd") == (
        "lightdet train --experiment teacher --seed 0 --profile bccd && "
        "lightdet train --experiment g5 --experiment g4 --seed 0 --profile bccd"
    )
    assert "--experiment c0 --experiment self-ld --seed" in claims.redo(
        found, "self-ld - c0", "bccd"
    )
    found = claims.redo(found, "prune-retrain - dense-retrain", "bccd")
    assert "--experiment c0 --experiment prune-retrain --experiment dense-retrain" in found


def test_verdicts_of_results(tmp_path, monkeypatch):
    """From files of metrics to the table: +silu is better by 10, with nothing else varying."""
    use_root(monkeypatch, tmp_path)
    monkeypatch.setattr(tables, "_hash_now", lambda *_: "a" * 12)
    config = {"distill": {"teacher": ""}, "train": {"init": ""}}
    planned = claims.load_design()["seeds"]["demo"]
    for run, base in {"c0": 0.3, "+silu": 0.4, "+mish": 0.31}.items():
        for seed in planned:
            ap = base + 0.001 * seed + (0.001 if run == "+mish" and seed else 0)
            metrics = {"config": "a" * 12, "AP_without": [ap, ap]} | dict.fromkeys(
                tables.METRICS, ap
            )
            own = config | {"model": {"pretrained": True, "activation": run}}
            about = {"config_hash": "a" * 12, "config": own, "key": "k" * 16, "pack_hash": "p"}
            about |= {"input_size": 160, "num_params": 1}
            for folder, content in {"metrics": metrics, "runs": about}.items():
                write_json(root() / "results/demo" / folder / f"{run}-s{seed}.json", content)
    cli.main(["verdicts"])
    path = tmp_path / "results/verdicts.md"
    table = pd.read_csv(path.with_suffix(".csv"), index_col="claim", keep_default_na=False)
    row = table.loc["SiLU is better than ReLU6"]
    assert row["demo"].startswith("+10.00 ± 0.") and row["demo"].endswith(f", {len(planned)} seeds")
    assert row["verdict"] == "open" and row["bccd"] == "no runs yet"
    demo = {"demo": claims.of_all_tiers()["demo"]}
    alone = claims.verdicts(claims.load_design(), demo).set_index("claim")["verdict"]
    assert alone["SiLU is better than ReLU6"] == "supported"
    assert table.loc["GFLv2 is better than GFLv1", "verdict"] == "open"
    assert f"enough for {claims.family(claims.load_design())} to hold" in path.read_text()


@pytest.fixture
def in_git(tmp_path, monkeypatch):
    """Results as git has them: one's own run on another machine gives other numbers."""
    git = ["git", "archive", "HEAD", "results"]
    if found := subprocess.run(git, cwd=root(), capture_output=True).stdout:
        with tarfile.open(fileobj=io.BytesIO(found)) as archive:
            archive.extractall(tmp_path, filter="data")
        use_root(monkeypatch, tmp_path)


def test_committed_verdicts_are_those_of_the_results(in_git, tmp_path):
    claims.write_verdicts(claims.of_all_tiers(), tmp_path / "anew.md")
    assert (tmp_path / "anew.md").read_text() == (root() / "results/verdicts.md").read_text()


def test_what_hangs_on_the_run_that_is_far_off_is_what_the_guide_says(in_git):
    """docs/reproduce.md: claims and the demo's differences with g4, seed 4, and without."""
    design, seeds = claims.load_design(), tables.seed_table("demo")
    tested = claims.comparisons(design, "demo")
    claims_of = {c.get("contrast"): c["claim"] for c in design["claims"].values()}
    found = [
        contrasts(there, tested, claims.family(design)).set_index("contrast")
        for there in (seeds, seeds.drop(("g4", 4)))
    ]
    rows = []
    for name in (name for name in tested if name in claims_of):
        both = [table.loc[name] for table in found]
        if both[0]["verdict"] != both[1]["verdict"]:
            cells = [f"{r['difference']:+.2f} ± {r['within']:.2f}" for r in both]
            verdicts = [{"none shown": "not shown"}.get(r["verdict"], r["verdict"]) for r in both]
            said = [f"{cell}: {verdict}" for cell, verdict in zip(cells, verdicts, strict=True)]
            rows.append((claims_of[name].split(",")[0], *said))
    page = (HERE / "docs/reproduce.md").read_text()
    table = page.partition("| claim, demo |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [tuple(row.strip("| ").split(" | ")) for row in table] == rows


def test_two_experiments_with_equal_settings_are_one_training(in_git):
    for profile in ("demo", "bccd", "minicoco"):
        training = tables.seed_table(profile)["training"].groupby("run").first()
        assert training["g2"] == training["+mish"] and training["g3"] == training["+silu"]
        assert training.nunique() == len(training) - 2
