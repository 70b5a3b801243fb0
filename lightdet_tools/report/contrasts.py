"""Differences between runs, and how sure they are: by seeds, by images, and many at once.

Another seed and other images to evaluate on would both have given another difference. Its interval
holds both, and is wide enough for all comparisons of a design together.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from lightdet_core.config import UserError

CONFIDENCE = 0.95  # that all intervals of a design hold the true difference
PARTS = 20  # of the images, as `evaluate.coco_metrics` leaves them out
FOUND = 0.8416  # normal quantile of 80 %: in so many of all repeats it would be found


def weights_of(contrast: str) -> dict[str, int]:
    """The runs and signs of "+silu - c0": {"+silu": 1, "c0": -1}. Spaces tell signs from names.

    Raises:
        UserError: not of this form.
    """
    first, *rest = contrast.split() or [""]
    signs, runs = ["+", *rest[::2]], [first, *rest[1::2]]
    different = len(runs) == len(signs) == len({*runs} - {""})
    if not different or not set(signs) <= {"+", "-"}:
        raise UserError(f"comparison {contrast!r}: write runs with + or - between, all apart")
    return {run: 1 if sign == "+" else -1 for sign, run in zip(signs, runs, strict=True)}


def contrasts(seeds: pd.DataFrame, wanted: Iterable[str], family: int) -> pd.DataFrame:
    """Differences between runs, seed by seed and on the same images, with their intervals.

    Runs of one seed share the order of the images and, where the network is the same, their first
    weights. What the seeds make uncertain comes from the spread of all runs that start alike,
    s sqrt(sum of w^2 / n): the few seeds of one pair say too little. What the images do comes
    from leaving out each part of them (a jackknife) in all runs at once. The part of that which
    differs from seed to seed is taken off: it is in the spread already.

    Args:
        seeds: of `tables.seed_table`, with every run that there is, not only the wanted ones.
        wanted: comparisons as `weights_of` reads them.
        family: how many intervals are to hold at once (Bonferroni, so that interval and verdict
            say the same, whatever the runs have in common): of `claims.family`.

    Returns:
        One row per comparison whose runs are all there: contrast, difference (percentage points),
        its own std over the seeds (NaN for one), seeds, the standard errors `from seeds` and
        `from images`, `within` (half of the interval; NaN where no run has two seeds, or no parts
        of the images) and verdict: up, down, none shown (the interval holds 0) or unknown.
    """
    starts = seeds["start"].groupby("run").first()
    spreads = {shift: _spreads(seeds, shift) for shift in (True, False)}
    found = []
    for contrast in wanted:
        weights = weights_of(contrast)
        if not set(weights) <= set(starts.index):
            continue
        values = seeds.drop(columns=["start", "training"])
        each = sum(w * values.loc[run] for run, w in weights.items())
        each = each.dropna(subset="AP")
        if each.empty:
            continue
        by_start = pd.Series(weights).groupby(starts[list(weights)])
        by_seeds = []
        for start, signs in by_start:  # what a seed does to all runs goes only where signs do
            spread, freedom = spreads[signs.sum() == 0][start]
            by_seeds.append((signs.pow(2).sum() / len(each) * spread**2, freedom))
        by_images = _from_images(each.drop(columns="AP").to_numpy(float))
        within, _ = interval([*by_seeds, *by_images], family)
        mean = each["AP"].mean()
        verdict = "unknown" if np.isnan(within) else "up" if mean > 0 else "down"
        if abs(mean) <= within:
            verdict = "none shown"
        errors = (sum(variance for variance, _ in part) ** 0.5 for part in (by_seeds, by_images))
        found.append((contrast, mean, each["AP"].std(ddof=1), len(each), *errors, within, verdict))
    columns = ["contrast", "difference", "difference std", "seeds", "from seeds", "from images"]
    table = pd.DataFrame(found, columns=[*columns, "within", "verdict"])
    table.attrs["metric"] = seeds.attrs.get("metric", "AP")  # the figures' axis
    return table


def in_words(row: pd.Series) -> str:
    """A row of `contrasts`: difference, half of the interval where it is known, seeds."""
    half = "" if np.isnan(row["within"]) else f" ± {row['within']:.2f}"
    return f"{row['difference']:+.2f}{half}, {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"


def interval(parts: list[tuple[float, int]], family: int) -> tuple[float, float]:
    """Half of the interval of one in `family` comparisons, and the standard error.

    Args:
        parts: variances, independent of each other, to be added, and the degrees of freedom of
            each; what is to be taken off is negative. The sum has Satterthwaite's freedom.
    """
    total = sum(variance for variance, _ in parts)
    if not total > 0:  # 0: nothing varies; NaN: unknown
        return total, total
    freedom = total**2 / sum(variance**2 / own for variance, own in parts)
    error = total**0.5
    return t_quantile(max(freedom, 1.0), 1 - (1 - CONFIDENCE) / family) * error, error


def resolution(spread: float, images: float, runs: int, family: int) -> pd.DataFrame:
    """What a number of seeds can show about the difference of two runs.

    Args:
        spread: standard deviation of one run's AP over the seeds.
        images: standard error of a difference by the images, as in `contrasts`.
        runs: from which the spread is taken.

    Returns:
        A row per number of seeds: `within`, and the smallest true difference that would come out
        as one in four of five repeats.
    """
    rows = {}
    for seeds in (2, 3, 5, 10):
        by_seeds = 2 * spread**2 / seeds, (runs - 1) * (seeds - 1)
        within, error = interval([by_seeds, (images**2, PARTS - 1)], family)
        rows[seeds] = {"within": within, "found in 4 of 5": within + FOUND * error}
    return pd.DataFrame(rows).T.rename_axis("seeds")


def noise(seeds: pd.DataFrame, differences: pd.DataFrame) -> dict[str, float]:
    """What `resolution` asks for, as measured: `spread` and `images`; empty where nothing was.

    Args:
        seeds: of `tables.seed_table`; the spread is that of the larger part, by start.
        differences: of `contrasts`; of their errors by the images the median.
    """
    spread, freedom = max(
        _spreads(seeds, True).values(), key=lambda found: found[1], default=(0.0, 0)
    )
    images = float(differences["from images"].median())
    return {"spread": spread, "images": images} if freedom and images >= 0 else {}


def _spreads(seeds: pd.DataFrame, shift: bool) -> dict[str, tuple[float, int]]:
    """By start: the standard deviation of what a mean per run (and a shift per seed) leave, and its
    degrees of freedom. Of two runs that are one training each seed counts once.
    """
    found = {}
    for start, own in seeds.groupby("start"):
        table = own.groupby(["training", "seed"])["AP"].first().unstack("seed")
        rows, columns = np.nonzero(table.notna().to_numpy())
        design = np.zeros((len(rows), sum(table.shape)))
        design[np.arange(len(rows)), rows] = 1
        design[np.arange(len(rows)), len(table) + columns] = shift
        values = table.to_numpy()[rows, columns]
        freedom = len(rows) - int(np.linalg.matrix_rank(design))
        rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        found[start] = (float((rest @ rest / freedom) ** 0.5) if freedom else float("nan"), freedom)
    return found


def _from_images(without: np.ndarray) -> list[tuple[float, int]]:
    """Variance of a mean over seeds by the images, and what of it the seeds account for.

    Args:
        without: (n, g) difference per seed without each part of the images.
    """
    n, g = without.shape
    if g < 2:
        return [(float("nan"), 1)]
    own = (g - 1) * (without.mean(1, keepdims=True) - without)  # each part's share in the whole
    shared = own.mean(0)
    variance = float((shared**2).sum() / (g * (g - 1)))
    if n == 1:
        return [(variance, g - 1)]
    freedom = (n - 1) * (g - 1)
    by_chance = float(((own - shared) ** 2).sum() / freedom / (n * g))
    return [] if variance <= by_chance else [(variance, g - 1), (-by_chance, freedom)]


def t_quantile(freedom: float, level: float) -> float:
    """Where Student's t stays with probability `level`, on both sides of 0.

    With t = sqrt(freedom) tan(a) the density is cos(a)^(freedom - 1), bounded and smooth.
    """
    angles = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    inside = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return float(freedom**0.5 * np.tan(np.interp(level * inside[-1], inside, angles)))
