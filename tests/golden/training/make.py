"""Makes scikit-learn.json beside this file: what scikit-learn says of data sets with ties, imbalance and separability.

    python3 -m venv /tmp/sklearn && /tmp/sklearn/bin/pip install scikit-learn==1.9.1
    /tmp/sklearn/bin/python tests/golden/training/make.py

A data set is a list of [anomalies, calm rows, incidents]. src/training/tests.rs compares.
"""
import json
import pathlib

import numpy as np
import sklearn
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve


def drawn(seed, weight, bias, anoms):
    """Rows whose label follows the model, counted."""
    rng = np.random.default_rng(seed)
    labels = rng.random(len(anoms)) < 1 / (1 + np.exp(-(weight * anoms + bias)))
    return [[int(a), int(np.sum((anoms == a) & ~labels)), int(np.sum((anoms == a) & labels))] for a in np.unique(anoms)]


def sets():
    rng = np.random.default_rng(13)
    yield "ties", 1.0, [[0, 40, 3], [1, 31, 9], [2, 17, 17], [3, 8, 21], [5, 1, 30]]
    yield "rare incidents", 1.0, drawn(1, 0.35, -7.0, rng.poisson(4, 5_000))
    yield "mostly incidents", 0.1, drawn(2, 0.4, 1.0, rng.poisson(3, 2_000))
    yield "separable", 1.0, [[a, 5, 0] for a in range(10)] + [[a, 0, 2] for a in range(10, 16)]
    yield "large numbers", 0.0, drawn(3, 0.00004, -9.0, rng.integers(0, 500_000, 400))
    yield "falling", 2.5, [[0, 2, 60], [1, 10, 40], [2, 30, 21], [3, 55, 4], [4, 80, 0]]
    yield "three million rows", 1.0, [[a, c * 1_000, i * 10] for a, c, i in drawn(4, 0.3, -3.0, rng.poisson(5, 3_000))]


def golden(name, alpha, groups):
    anoms, calm, incident = np.array(groups, dtype=float).T
    keep = lambda rows: rows > 0
    x = np.concatenate([anoms[keep(calm)], anoms[keep(incident)]])[:, None]
    y = np.concatenate([np.zeros(keep(calm).sum()), np.ones(keep(incident).sum())])
    rows = np.concatenate([calm[keep(calm)], incident[keep(incident)]])
    # Scaled, so that its solver converges on large numbers as well; the penalty is scaled along.
    unit = max(1.0, float(anoms.max()))
    penalty = dict(C=unit**2 / alpha) if alpha else dict(C=np.inf)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-14, max_iter=10_000, **penalty)
    model.fit(x / unit, y, sample_weight=rows)
    weight, bias = float(model.coef_[0, 0]) / unit, float(model.intercept_[0])
    score = weight * x[:, 0] + bias
    threat = 1 / (1 + np.exp(-score))
    fpr, tpr, _ = roc_curve(y, score, sample_weight=rows, drop_intermediate=False)
    # calibration_curve takes no weights.
    repeat = np.repeat(np.arange(len(y)), rows.astype(int)) if rows.sum() < 1e6 else None
    share, mean = calibration_curve(y[repeat], threat[repeat], n_bins=10) if repeat is not None else ([], [])
    return dict(
        name=name, alpha=alpha, groups=groups, weight=weight, bias=bias,
        auc=float(roc_auc_score(y, score, sample_weight=rows)),
        brier=float(brier_score_loss(y, threat, sample_weight=rows)),
        roc=[[float(f), float(t)] for f, t in zip(fpr, tpr)],
        calibration=[[float(m), float(s)] for m, s in zip(mean, share)],
    )


made = dict(by=f"scikit-learn {sklearn.__version__}", sets=[golden(*it) for it in sets()])
path = pathlib.Path(__file__).with_name("scikit-learn.json")
path.write_text(json.dumps(made, indent=None, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
