"""The test clips in the plane by t-SNE, coloured by what they are (2407.13840, Fig. 4 and 5).

Shape suffixes: K clips, E encoder width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.settings import UserError
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.inputs import EvaluationInputs

MIN_CLIPS = 5
"""What t-SNE needs."""


def check_projection(inputs: EvaluationInputs) -> None:
    """Refuse a projection whose task does not run, has too few test clips, or has classes that are no MIDI notes."""
    targets, config = inputs.targets, inputs.config
    name = config.projection.task
    if name is None or name not in targets:
        raise UserError(
            f"projection.task={name} does not run: the set has no column for it, or nothing in it to "
            f"answer; {', '.join(targets)} do"
        )
    test = targets[name].only("test")
    if len(test) < MIN_CLIPS:
        raise UserError(f"projection.task={name} has {len(test)} test clips; t-SNE needs at least {MIN_CLIPS}")
    notes = test.classes if test.classes else tuple(f"{value:g}" for value in test.values)
    wrong = [note for note in notes if not note.isdecimal()]
    if config.projection.midi and wrong:
        raise UserError(
            f"projection.midi needs MIDI notes, whole numbers, and task {name} has {wrong[0]!r}; "
            "set projection.midi=false, or projection.task to a task of notes"
        )


def project(inputs: EvaluationInputs, tables: Mapping[str, EmbeddingTable]) -> dict[str, Any]:
    """Coordinates of every model's test clips, and their class: the commonest of its tags, or pitch class and octave.

    Returns:
        ``points`` → model → [[x, y], …]; ``colour`` and ``octave`` of each clip (octave −1 where there is none);
        ``names`` of the colours.
    """
    from sklearn.manifold import TSNE

    config = inputs.config
    name = str(config.projection.task)
    test = inputs.targets[name].only("test")
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(test))[: config.projection.clips])
    points = {}
    for model, table in tables.items():
        h_KE = table.h_KE[test.rows_K[chosen]]
        if np.ptp(h_KE, axis=0).max() == 0:  # a collapsed encoder has one point, and PCA no axis to start from
            points[model] = [[0.0, 0.0]] * len(chosen)
            continue
        perplexity = min(config.projection.perplexity, (len(chosen) - 1) / 3)
        tsne = TSNE(init="pca", perplexity=perplexity, max_iter=1000, random_state=config.seed)
        points[model] = np.round(tsne.fit_transform(h_KE), 2).tolist()
    values = test.values[chosen]
    colour = (values * values.sum(0)).argmax(1) if values.ndim == 2 else np.asarray(values)
    names, octave = list(test.classes), np.full(len(chosen), -1)
    if config.projection.midi:
        midi = np.array([int(test.classes[code]) for code in colour]) if names else colour.astype(np.int64)
        colour, octave = midi % 12, midi // 12 - 1
        names = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]
    return {"task": name, "points": points, "colour": colour.tolist(), "octave": octave.tolist(), "names": names}
