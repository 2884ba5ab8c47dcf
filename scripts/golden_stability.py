#!/usr/bin/env python3
"""Steadiness of two training runs by numpy and scipy, which crates/rag-tune-report/src/stability is compared with.

usage: python scripts/golden_stability.py    (writes tests/fixtures/golden/stability.json)

Needs numpy and scipy: pip install numpy==2.4.6 scipy==1.17.1. The curves are made up, with a fall, autocorrelated noise and a
few spikes. Trend: scipy.stats.theilslopes in a window of 25 steps; robust deviation: scipy.stats.median_abs_deviation.
Intervals and p values are by blocks of 6 steps written out here with numpy's random numbers, so the comparison allows for
another draw.
"""

import json
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import median_abs_deviation, theilslopes

WINDOW, SPIKE, STEPS, BLOCK, RESAMPLES = 25, 4.0, 180, 6, 20_000


def run(rng, deviation, supervised):
    steps = np.arange(1, STEPS + 1)
    keep = steps != 77  # a skipped step
    shared = np.zeros(STEPS)
    for i in range(1, STEPS):
        shared[i] = 0.3 * shared[i - 1] + rng.normal()
    losses = 0.35 + np.exp(-0.04 * steps) + deviation * shared
    losses[[30, 120]] += 12 * deviation
    norms = 0.3 + 0.2 * np.exp(-0.02 * steps) + 0.03 * np.abs(rng.normal(size=STEPS))
    norms[50] += 0.5
    return steps[keep], losses[keep], norms[keep], supervised[keep]


def trend(x, y):
    values = []
    for i in range(len(x)):
        around = slice(max(0, i - WINDOW // 2), i + WINDOW // 2 + 1)
        slope, intercept, _, _ = theilslopes(y[around], x[around], method="separate")
        values.append(intercept + slope * x[i])
    return np.array(values)


def resampled_means(rng, values):
    n = len(values)
    starts = rng.integers(n, size=(RESAMPLES, -(-n // BLOCK)))
    indices = (starts[:, :, None] + np.arange(BLOCK)).reshape(RESAMPLES, -1)[:, :n] % n
    return values[indices].mean(axis=1)


def squares(values):
    return (values - values.mean()) ** 2 * len(values) / (len(values) - 1)


def scatter(rng, steps, curve):
    line = trend(steps, curve)
    residuals = curve - line
    robust = median_abs_deviation(residuals, scale="normal")
    spikes = steps[residuals > SPIKE * robust]
    interval = np.quantile(resampled_means(rng, squares(residuals)), [0.025, 0.975])
    expected = {
        "variance": residuals.var(ddof=1),
        "robust_deviation": robust,
        "relative_deviation": (residuals / line).std(ddof=1),
        "spikes": spikes.tolist(),
        "variance_ci95": interval.tolist(),
    }
    by_step = [squares(residuals), squares(residuals / line), np.isin(steps, spikes).astype(float)]
    return expected, by_step


def difference(rng, first, second):
    d = second - first
    sums = np.add.reduceat(d, np.arange(0, len(d), BLOCK))
    signs = rng.choice([-1, 1], size=(RESAMPLES, len(sums)))
    as_far = np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-9)
    return {
        "difference": d.mean(),
        "ci95": np.quantile(resampled_means(rng, d), [0.025, 0.975]).tolist(),
        "p_value": (as_far.sum() + 1) / (RESAMPLES + 1),
    }


rng = np.random.default_rng(7)
supervised = rng.integers(500, 700, size=STEPS)
runs, values = [], []
for deviation in [0.04, 0.03]:
    steps, losses, norms, counts = run(rng, deviation, supervised)
    loss, (loss_squares, loss_relative, loss_spikes) = scatter(rng, steps, losses)
    grad, (_, grad_relative, _) = scatter(rng, steps, norms)
    runs.append({
        "steps": steps.tolist(),
        "losses": losses.tolist(),
        "grad_norms": norms.tolist(),
        "supervised_tokens": counts.tolist(),
        "expected": {
            "loss": loss,
            "grad_norm": grad,
            "grad_norm_mean": norms.mean(),
            "grad_norm_median": np.median(norms),
            "grad_norm_p95": np.percentile(norms, 95),
            "grad_norm_variation": norms.std(ddof=1) / norms.mean(),
        },
    })
    values.append([loss_squares, loss_relative, grad_relative, loss_spikes])

golden = {
    "made_by": f"scripts/golden_stability.py, numpy {np.__version__}, scipy {scipy.__version__}",
    "runs": runs,
    "differences": [difference(rng, a, b) for a, b in zip(*values)],
}
path = Path(__file__).parent.parent / "tests/fixtures/golden/stability.json"
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(f"wrote {path}: {len(runs)} runs of {STEPS - 1} steps")
