"""A parameter sweep: which settings of a kernel ridge regression predict best, by cross-validation.

    python docs/examples/parameter_sweep.py

Needs dtq and numpy (pip install numpy). `dtq.Executor` is a `concurrent.futures.Executor`: take any program that has a
`ProcessPoolExecutor`, and change one line.
"""

from __future__ import annotations

import itertools
import os

# One thread a task: the slots are what runs in parallel. Has to be said before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from dtq import Executor

WIDTHS = [float(width) for width in np.geomspace(0.05, 5.0, 9)]
PENALTIES = [float(penalty) for penalty in np.geomspace(1e-6, 1.0, 7)]
FOLDS = 5
POINTS = 240


def data() -> tuple[np.ndarray, np.ndarray]:
    """A noisy curve, always the same one."""
    random = np.random.default_rng(7)
    x = random.uniform(-3, 3, POINTS)
    return x, np.sin(2 * x) + 0.3 * x + random.normal(0, 0.2, POINTS)


def error(width: float, penalty: float) -> float:
    """The mean squared error of one setting, on points that it was not fitted to."""
    x, y = data()
    kernel = np.exp(-(((x[:, None] - x[None, :]) / width) ** 2))
    fold = np.arange(POINTS) % FOLDS
    errors = []
    for held_out in range(FOLDS):
        fit, test = fold != held_out, fold == held_out
        weights = np.linalg.solve(kernel[np.ix_(fit, fit)] + penalty * np.eye(fit.sum()), y[fit])
        errors.append(np.mean((kernel[np.ix_(test, fit)] @ weights - y[test]) ** 2))
    return float(np.mean(errors))


def main() -> None:
    settings = list(itertools.product(WIDTHS, PENALTIES))
    with Executor.local(slots=2) as executor:  # or Executor("host:3870"): every machine that has workers
        errors = list(executor.map(error, *zip(*settings, strict=True), chunksize=4))
    ranked = sorted(zip(errors, settings, strict=True))
    print(f"{len(settings)} settings, {FOLDS} folds each; the best:")
    for mean, (width, penalty) in ranked[:3]:
        print(f"  width {width:.3g}, penalty {penalty:.1e}: {mean:.6f}")


if __name__ == "__main__":
    from parameter_sweep import main  # by its name: the workers import `error` from there

    main()
