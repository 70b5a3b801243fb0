"""Differences and their intervals: by hand, and as often right as they say."""

import math

import numpy as np
import pandas as pd
import pytest

from lightdet_core import evaluate
from lightdet_core.config import UserError
from lightdet_tools.report.contrasts import (
    PARTS,
    contrasts,
    interval,
    noise,
    resolution,
    t_quantile,
    weights_of,
)

NAN = float("nan")


def seed_table(runs, without=(0, 0, 0), scratch=(), twins=()):
    """Runs with their AP per seed; without a part of the images each AP is so much higher.

    Args:
        twins: name -> the run whose training it is.
    """
    rows = [
        {"run": run, "seed": seed, "start": "scratch" if run in scratch else "ImageNet", "AP": ap}
        | {"training": dict(twins).get(run, run)}
        | {part: ap + shift for part, shift in enumerate(without)}
        for run, aps in runs.items()
        for seed, ap in enumerate(aps)
    ]
    columns = ["run", "seed", "start", "training", "AP", *range(len(without))]
    return pd.DataFrame(rows, columns=columns).dropna().set_index(["run", "seed"])


def named(table):
    """Every run a training of its own, from ImageNet."""
    return table.assign(start="ImageNet", training=table.index.get_level_values("run"))


def test_comparisons_are_read():
    assert weights_of("+silu - c0") == {"+silu": 1, "c0": -1}
    assert weights_of("a-b - +c - d + e") == {"a-b": 1, "+c": -1, "d": -1, "e": 1}
    assert weights_of("g1") == {"g1": 1}


@pytest.mark.parametrize("text", ["", "a - ", "a - a", "a b", "a * b", "- a"])
def test_what_is_no_comparison_is_refused(text):
    with pytest.raises(UserError, match="write runs with"):
        weights_of(text)


def test_seeds_by_hand():
    """Residuals of run and seed effects: (+-0.5, +-0.5) x 2: s^2 = 1 with one degree of freedom."""
    seeds = seed_table({"c0": [20.0, 24.0], "+a": [21.0, 27.0]})
    (row,) = contrasts(seeds, ["+a - c0", "+b - c0"], 1).to_dict("records")
    assert row["difference"] == pytest.approx(2) and row["seeds"] == 2
    assert row["difference std"] == pytest.approx(2**0.5)
    assert row["from seeds"] == pytest.approx((2 / 2) ** 0.5) and row["from images"] == 0
    assert row["within"] == pytest.approx(12.706, abs=1e-3) and row["verdict"] == "none shown"
    many = contrasts(seeds, ["+a - c0"], 5).iloc[0]  # 1 - 0.05 / 5
    assert many["within"] == pytest.approx(63.657, abs=1e-3)


def test_images_by_hand():
    """Without the parts +a is better by 3, 2 and 1 than with all: parts' shares are -2, 0 and 2."""
    rows = {("c0", 0): [20, 20, 20, 20], ("+a", 0): [22, 25, 24, 23]}
    seeds = pd.DataFrame(rows, index=["AP", 0, 1, 2]).T.rename_axis(["run", "seed"])
    seeds = named(seeds)
    row = contrasts(seeds, ["+a - c0"], 1).iloc[0]
    assert row["from images"] == pytest.approx((8 / (3 * 2)) ** 0.5)
    assert math.isnan(row["within"]) and row["verdict"] == "unknown"  # one seed: no spread


def test_what_the_images_owe_to_the_seeds_is_not_counted_twice():
    """Shares of the parts: what both seeds have in common (0, +-1) and not (+-1 in opposition)."""
    rows = {("c0", seed): [20.0] * 4 for seed in (0, 1)}
    for seed, sign in enumerate((1, -1)):
        shares = np.array([1 + sign, -1 - sign, 0])
        rows["+a", seed] = [22.0, *(22 - shares / 2)]
    seeds = pd.DataFrame(rows, index=["AP", 0, 1, 2]).T.rename_axis(["run", "seed"])
    seeds = named(seeds)
    row = contrasts(seeds, ["+a - c0"], 1).iloc[0]
    shared, by_chance = 2 / (3 * 2), 4 / 2 / (2 * 3)
    assert shared == by_chance and row["from images"] == 0
    only_shared = seed_table({"c0": [20.0, 21.0], "+a": [22.0, 23.0]})
    only_shared.loc[("+a", 0), [0, 1]] += [0.5, -0.5]
    only_shared.loc[("+a", 1), [0, 1]] += [0.5, -0.5]
    row = contrasts(only_shared, ["+a - c0"], 1).iloc[0]
    assert row["from images"] == pytest.approx(shared**0.5)
    assert row["within"] == pytest.approx(4.303 * shared**0.5, abs=1e-3)  # of 3 parts


def test_verdicts_and_missing_seeds():
    runs = {"c0": [20.0, 20.1, 20.0], "+up": [25.0, 25.0, 25.1], "+down": [18.0, 18.0, 18.1]}
    seeds = seed_table(runs | {"+one": [20.02, NAN, NAN]})
    wanted = ["+up - c0", "+down - c0", "+one - c0"]
    found = contrasts(seeds, wanted, 3).set_index("contrast")
    assert found["verdict"].tolist() == ["up", "down", "none shown"]
    assert found.loc["+one - c0", "seeds"] == 1
    assert math.isnan(found.loc["+one - c0", "difference std"])
    alone = contrasts(seeds.xs(0, level="seed", drop_level=False), wanted, 3)
    assert alone["verdict"].eq("unknown").all() and alone["within"].isna().all()
    no_parts = contrasts(seeds.drop(columns=[0, 1, 2]), wanted, 3)
    assert no_parts["verdict"].eq("unknown").all()
    same = seed_table({"c0": [20.0, 21.0], "+a": [20.0, 21.0], "+b": [22.0, 24.0]})
    assert contrasts(same, ["+a - c0"], 1)["verdict"].tolist() == ["none shown"]
    assert contrasts(seed_table({}), wanted, 3).empty


def test_runs_that_start_alike_share_a_spread_and_copies_count_once():
    quiet = {"c0": [20.0, 20.2], "+a": [22.2, 22.0]}
    loud = {"c0-scratch": [2.0, 6.0], "+a-scratch": [6.0, 2.0]}
    seeds = seed_table(quiet | loud, scratch=loud)
    wanted = ["+a - c0", "+a-scratch - c0-scratch", "c0 - c0-scratch"]
    found = contrasts(seeds, wanted, 1)["from seeds"]
    # the third is of two starts: what a seed does to all runs of one stays in it
    assert found.tolist() == pytest.approx([0.2, 4, ((0.02 + 8) / 2) ** 0.5])
    copied = seed_table(quiet | {"g2": quiet["+a"]}, twins={"g2": "+a"})
    assert contrasts(copied, wanted, 1)["within"].tolist() == pytest.approx(
        [0.2 * 12.706], abs=1e-3
    )


def test_noise_is_that_of_the_larger_part_and_of_the_median_comparison():
    runs = {"c0": [20.0, 20.2], "+a": [22.2, 22.0], "+b": [21.0, 21.2], "x": [2.0, 6.0]}
    seeds = seed_table(runs | {"y": [6.0, 2.0]}, without=(0.3, -0.3, 0), scratch=("x", "y"))
    found = contrasts(seeds, ["+a - c0", "+b - c0", "y - x"], 1)
    found["from images"] = [0.1, 0.5, 0.3]
    spread = (2 * (1 + 4 + 1) / 15**2 / 2) ** 0.5  # residuals of 1, 2 and 1 fifteenth, 2 free
    assert noise(seeds, found) == pytest.approx({"spread": spread, "images": 0.3})
    assert noise(seeds, found[:0]) == noise(seed_table({}), found) == {}
    assert noise(seeds.xs(0, level="seed", drop_level=False), found) == {}


def simulated(generator, shared, by_chance, runs=12, seeds=3, parts=20):
    """Noise only: of seeds, of images (in every run the same), of both together."""
    scale = parts**0.5
    each = generator.normal(size=(runs, seeds, 1)) + generator.normal(size=(1, seeds, 1))
    each = each + shared * scale * generator.normal(size=(runs, 1, parts))
    each = each + by_chance * scale * generator.normal(size=(runs, seeds, parts))
    whole = each.mean(2, keepdims=True)
    table = np.concatenate([whole, (parts * whole - each) / (parts - 1)], axis=2)
    index = pd.MultiIndex.from_product([range(runs), range(seeds)], names=["run", "seed"])
    frame = pd.DataFrame(table.reshape(runs * seeds, -1), index, ["AP", *range(parts)])
    frame.index = frame.index.set_levels([f"r{run}" for run in range(runs)], level=0)
    return named(frame)


@pytest.mark.parametrize(("shared", "by_chance"), [(0.0, 0.0), (0.7, 0.3), (0.2, 1.5)])
def test_false_differences_are_as_rare_as_they_say(shared, by_chance):
    """Five percent, whatever the noise comes from, for sums of two runs and of four."""
    generator = np.random.default_rng(0)
    wanted, called = ["r1 - r0", "r3 - r2", "r5 - r4 - r7 + r6"], 0
    for _ in range(120):
        found = contrasts(simulated(generator, shared, by_chance), wanted, 1)
        called += found["verdict"].ne("none shown").to_numpy()
    assert 0.02 < called.mean() / 120 < 0.08


def test_twenty_comparisons_without_effect_rarely_show_any():
    generator, wanted = np.random.default_rng(1), [f"r{i} - r0" for i in range(1, 11)]
    wanted += [f"r{i + 1} - r{i}" for i in range(1, 11)]
    trials = [contrasts(simulated(generator, 0.5, 0.5), wanted, 20) for _ in range(30)]
    assert (
        sum(found["verdict"].ne("none shown").any() for found in trials) <= 4
    )  # with family 1 it is 14


def test_resolution_is_the_interval_of_such_runs():
    """Two variances of 1: 2 s^2 / n with 9 degrees of freedom, the images with 19."""
    table = resolution(spread=5**0.5, images=1.0, runs=2, family=1)
    within, error = interval([(1.0, 9), (1.0, 19)], 1)
    assert error == pytest.approx(2**0.5)
    assert within == pytest.approx(t_quantile(4 / (1 / 9 + 1 / 19), 0.95) * 2**0.5)
    assert table.loc[10, "within"] == pytest.approx(within)
    assert table.loc[10, "found in 4 of 5"] == pytest.approx(within + 0.8416 * error)
    assert table["within"].is_monotonic_decreasing and PARTS == evaluate.PARTS


@pytest.mark.parametrize(
    ("freedom", "level", "known"),
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (30, 0.95, 2.042),
        (2, 0.999, 31.599),
        (40, 0.999, 3.551),
    ],
)
def test_student_quantile(freedom, level, known):
    assert t_quantile(freedom, level) == pytest.approx(known, abs=1e-3)


def test_one_training_under_two_names_counts_once():
    """Whatever its numbers: another machine gives others."""
    runs = {"c0": [20.0, 24.0, 21.0], "+a": [21.0, 27.0, 20.0]}
    (alone,) = contrasts(seed_table(runs), ["+a - c0"], 1).to_dict("records")
    for again in ([21.0, 27.0, 20.0], [26.0, 20.0, NAN]):
        both, own = runs | {"g": again}, ["+a - c0", "g - c0"]
        (row, _) = contrasts(seed_table(both, twins={"g": "+a"}), own, 1).to_dict("records")
        assert row["within"] == pytest.approx(alone["within"])
    other = seed_table(runs | {"g": [21.0, 27.0, 20.0]})
    assert contrasts(other, ["+a - c0"], 1).iloc[0]["within"] < 0.9 * alone["within"]
