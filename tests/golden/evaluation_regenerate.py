"""Write evaluation_metrics.json again: metrics by scikit-learn and mir_eval alone, never by this project's code.

Run as ``python -m tests.golden.evaluation_regenerate`` and say in the commit why the numbers moved.
"""

import json
from pathlib import Path

import mir_eval.key
import numpy as np
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score


def main() -> None:
    """Draw a small set with ties, compute its metrics, and write both."""
    rng = np.random.default_rng(20240713)
    truth = rng.random((40, 5)) < [0.1, 0.3, 0.5, 0.7, 0.9]
    scores = np.round(rng.normal(size=(40, 5)) + truth, 1)
    target = rng.normal(120, 30, 25)
    predicted = target + rng.normal(0, 20, 25)
    keys = [f"{note} {mode}" for note in ("C", "C#", "Eb", "G", "A", "Bb") for mode in ("major", "minor")]
    golden = {
        "truth": truth.astype(int).tolist(),
        "scores": scores.tolist(),
        "auroc": [float(roc_auc_score(truth[:, c], scores[:, c])) for c in range(5)],
        "ap": [float(average_precision_score(truth[:, c], scores[:, c])) for c in range(5)],
        "macro_auroc": float(roc_auc_score(truth, scores, average="macro")),
        "keys": keys,
        "key_scores": [[mir_eval.key.weighted_score(reference, estimate) for estimate in keys] for reference in keys],
        "target": target.tolist(),
        "predicted": predicted.tolist(),
        "r2": float(r2_score(target, predicted)),
    }
    Path(__file__).with_name("evaluation_metrics.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
