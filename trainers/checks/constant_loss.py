"""Settings and data under which a loss is constant or its gradient vanishes: refused before anything is taken.

Such a run would end with exit code 0 and weights that are those of its first step.

Shape suffixes: K labelled training clips, P distinct label vectors, C tags.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from trainers.losses.config import OUTPUTS

if TYPE_CHECKING:
    from data_shards.read.loader import BatchLoader
    from trainers.config import ExperimentConfig

SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-6, 1e3
"""Below, the rounding of a float32 cosine (1e-7) decides the softmax; above, all probabilities agree to 1/τ = 0.001 and
the loss is log(N − 1)."""
SMALLEST_RATE = 1e-9
"""Adam moves a weight by about the learning rate a step; float32 weights of 0.03 are 2e-9 apart."""
ADAM_EPSILON = 1e-8
"""torch's default: a gradient smaller than this no longer moves a weight by the learning rate."""
COMPARING = ("contrastive", "music_text")
"""Objectives whose rows are distinguished from the other rows of the batch."""
BLOCK = 1024
"""Distinct label vectors that are compared at once with all others."""


def check_settings_can_learn(config: "ExperimentConfig") -> None:
    """Refuse settings that make the loss constant whatever the data are."""
    _check_optimiser(config)
    _check_statistics(config)
    if config.loss.objective in COMPARING:
        if config.data.batch < 2:
            raise ValueError(
                f"data.batch={config.data.batch} with loss.objective={config.loss.objective}: a global batch of one "
                "clip has no negatives and nothing to learn; take data.batch >= 2"
            )
        if config.loss.objective == "contrastive":
            _check_positives(config)
        _check_projections(config)


def _check_positives(config: "ExperimentConfig") -> None:
    data, count = config.data, config.views.count
    if count > 1:
        return
    if data.num_labelled == 0:
        raise ValueError(
            f"views.count={count} with data.b_s={data.b_s:g}: without a second view and without labels no row has a "
            "positive, so the loss is always 0; take views.count >= 2, or data.b_s > 0 and data.labelled=DIR"
        )
    if data.num_labelled < 2:
        raise ValueError(
            f"views.count={count} with data.b_s={data.b_s:g} of data.batch={data.batch}: the one labelled clip of a "
            f"batch has no positive, so the loss is always 0; take views.count >= 2 or data.b_s >= {2 / data.batch:.3g}"
        )


def _check_projections(config: "ExperimentConfig") -> None:
    loss, head = config.loss, config.head
    if not SMALLEST_TEMPERATURE <= loss.temperature <= LARGEST_TEMPERATURE:
        raise ValueError(
            f"loss.temperature={loss.temperature:g} with loss.objective={loss.objective}: outside of "
            f"[{SMALLEST_TEMPERATURE:g}, {LARGEST_TEMPERATURE:g}] the softmax is constant in float32; take 0.1"
        )
    if loss.epsilon > 1:
        raise ValueError(
            f"loss.epsilon={loss.epsilon:g} with loss.objective=contrastive: it outweighs every probability that it is "
            "added to, so the loss is nearly constant; take loss.epsilon <= 1, or 0 as in the paper"
        )
    for key, width in (("head.width", head.width), ("head.hidden", head.hidden)):
        if width == 1:
            raise ValueError(
                f"{key}=1 with loss.objective={loss.objective}: projections then lie on one line, and their cosines, "
                f"±1, have no gradient; take {key} >= 2"
            )


def _check_optimiser(config: "ExperimentConfig") -> None:
    optim = config.optim
    rate = optim.learning_rate * min(1.0, optim.steps / max(1, optim.warmup_steps))
    if rate < SMALLEST_RATE:
        raise ValueError(
            f"optim.learning_rate={optim.learning_rate:g} with optim.warmup_steps={optim.warmup_steps} and "
            f"optim.steps={optim.steps}: the rate never exceeds {rate:.2g}, which float32 weights round away; raise "
            f"optim.learning_rate (the paper's is 1e-4) or lower optim.warmup_steps"
        )
    if optim.max_grad_norm is not None and optim.max_grad_norm < ADAM_EPSILON:
        raise ValueError(
            f"optim.max_grad_norm={optim.max_grad_norm:g} with optim.learning_rate={optim.learning_rate:g}: Adam adds "
            f"{ADAM_EPSILON:g} to the gradient's size, so a smaller one moves no weight; raise optim.max_grad_norm"
        )


def _check_statistics(config: "ExperimentConfig") -> None:
    """SampleCNN's last BatchNorm sees one frame of a view of 3^10 samples: two numbers a channel become ±1."""
    if config.encoder.name != "sample_cnn":
        return
    rows = config.micro_rows or config.data.batch * config.views.count
    frames = config.views.samples // config.encoder.shortest[0]
    if rows * frames <= 2:
        clips = "data.batch" if config.micro_rows is None else "optim.micro_batch"
        least = 3 // (config.views.count * max(1, frames)) + 1
        raise ValueError(
            f"{clips}={config.optim.micro_batch or config.data.batch} with views.count={config.views.count}: the last "
            f"BatchNorm of encoder.name=sample_cnn would normalise {rows * frames} number(s) a channel to a constant; "
            f"take {clips} >= {least}"
        )


def check_data_can_be_learned(config: "ExperimentConfig", loader: "BatchLoader") -> None:
    """Refuse data that make the loss constant under these settings."""
    labels_KC, sizes = loader.drawn_labels(), loader.sampler.sizes
    if config.loss.objective in COMPARING:
        _check_clips(config, sizes)
    if config.loss.objective == "contrastive":
        if config.views.count == 1:
            _check_some_pair_is_positive(config, labels_KC)
        if config.data.b_s == 1:
            _check_some_pair_is_negative(config, labels_KC)
    elif OUTPUTS.get(config.loss.objective) == "tags" and (labels_KC == labels_KC[:1]).all():
        names = ", ".join(loader.vocabulary[code] for code in labels_KC[0].nonzero()[0][:5])
        raise UserError(
            f"data.vocabulary={config.data.vocabulary} with loss.objective={config.loss.objective}: every labelled "
            f"training clip has the same labels ({names}), so there is nothing to tell apart; name another column by "
            "data.vocabulary, or set loss.objective=contrastive"
        )


def _check_clips(config: "ExperimentConfig", sizes: tuple[int, int]) -> None:
    if sum(sizes) > 1:
        return
    name = "labelled" if sizes[0] else "unlabelled"
    raise UserError(
        f"data.{name}={getattr(config.data, name)} has one training clip to draw from with data.b_s="
        f"{config.data.b_s:g} and data.p_s={config.data.p_s:g}: no negatives, nothing to learn; give a set with more "
        "training clips"
    )


def _check_some_pair_is_positive(config: "ExperimentConfig", labels_KC: NDArray[np.bool_]) -> None:
    least = 1 if config.loss.positives == "weighing" else config.loss.criterion
    distinct_PC, times_P = np.unique(labels_KC, axis=0, return_counts=True)
    if (distinct_PC[times_P > 1].sum(1) >= least).any() or _some_pair(distinct_PC, lambda shared: shared >= least):
        return
    raise UserError(
        f"views.count=1 with data.vocabulary={config.data.vocabulary} and loss.criterion={least}: no two labelled "
        "training clips share so many labels, so no row has a positive and the loss is always 0; take views.count >= "
        "2, a smaller loss.criterion, or another data.vocabulary"
    )


def _check_some_pair_is_negative(config: "ExperimentConfig", labels_KC: NDArray[np.bool_]) -> None:
    distinct_PC = np.unique(labels_KC, axis=0)
    if config.loss.positives == "weighing":
        differ = len(distinct_PC) > 1
    else:
        least = config.loss.criterion
        alone = (distinct_PC.sum(1) < least).any()
        differ = bool(alone) or _some_pair(distinct_PC, lambda shared: shared < least)
    if not differ:
        raise UserError(
            f"data.b_s=1 with data.vocabulary={config.data.vocabulary} and loss.criterion={config.loss.criterion}: all "
            "labelled training clips are positives of each other and none is a negative; set data.b_s < 1 with "
            "data.unlabelled=DIR, a larger loss.criterion, or another data.vocabulary"
        )


def _some_pair(distinct_PC: NDArray[np.bool_], wanted: Callable[[NDArray[np.float32]], NDArray[np.bool_]]) -> bool:
    """Whether the number of labels that some two different vectors share is as wanted; stops at the first."""
    tags_PC = distinct_PC.astype(np.float32)
    for first in range(0, len(tags_PC), BLOCK):
        found = wanted(tags_PC[first : first + BLOCK] @ tags_PC.T)
        rows = np.arange(len(found))
        found[rows, first + rows] = False
        if found.any():
            return True
    return False
