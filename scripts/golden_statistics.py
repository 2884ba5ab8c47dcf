#!/usr/bin/env python3
"""Intervals and tests by scipy and statsmodels, which crates/rag-tune-eval/src/statistics is compared with.

usage: python scripts/golden_statistics.py    (writes tests/fixtures/golden/statistics.json)

Needs scipy and statsmodels: pip install scipy==1.17.1 statsmodels==0.15.0. Arms are given by four counts: rows that both
arms have right, only the first, only the second, neither. Bootstrap intervals are random, so the comparison allows for that.
"""

import json
from pathlib import Path

import numpy as np
import scipy
import statsmodels
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

COUNTS = [
    (113, 92, 84, 279),
    (20, 0, 5, 15),
    (300, 3, 12, 253),
    (10, 1, 9, 20),
    (200, 60, 110, 198),
    (5, 2, 1, 0),
]
P_VALUES = [[0.01, 0.04, 0.03], [0.2], [0.0004, 0.9, 0.02, 0.02, 0.011], [0.5, 0.6, 0.7]]


def arms(both, first, second, neither):
    a = np.array([1] * both + [1] * first + [0] * second + [0] * neither)
    b = np.array([1] * both + [0] * first + [1] * second + [0] * neither)
    return a, b


def case(counts):
    both, first, second, neither = counts
    a, b = arms(*counts)
    difference = bootstrap(
        (a, b),
        lambda x, y, axis: y.mean(axis=axis) - x.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=50_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    test = mcnemar([[both, first], [second, neither]], exact=True)
    return {
        "counts": counts,
        "p_value": float(test.pvalue),
        "difference_ci95": [float(difference.low), float(difference.high)],
    }


def ratio():
    """Attribute F1 as a ratio of sums, bootstrapped over rows."""
    rng = np.random.default_rng(5)
    whole = rng.integers(2, 12, size=200)
    part = rng.binomial(whole, 0.7)
    interval = bootstrap(
        (part, whole),
        lambda p, w, axis: p.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=50_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    return {
        "part": part.tolist(),
        "whole": whole.tolist(),
        "ci95": [float(interval.low), float(interval.high)],
    }


golden = {
    "made_by": f"scripts/golden_statistics.py, scipy {scipy.__version__}, statsmodels {statsmodels.__version__}",
    "paired": [case(counts) for counts in COUNTS],
    "ratio": ratio(),
    "holm": [
        {"p_values": p, "adjusted": multipletests(p, method="holm")[1].tolist()} for p in P_VALUES
    ],
    "wilson": [
        {"correct": c, "total": n, "ci95": list(proportion_confint(c, n, method="wilson"))}
        for c, n in [(0, 10), (10, 10), (0, 568), (60, 60)]
    ],
}
path = Path(__file__).parent.parent / "tests/fixtures/golden/statistics.json"
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(f"wrote {path}: {len(golden['paired'])} paired cases")
