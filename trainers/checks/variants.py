"""Heads that leave an effect out need views with and without it: settings that give none are refused before a run."""

import difflib
from typing import TYPE_CHECKING

from trainers.encoders.config import INVARIANT

if TYPE_CHECKING:
    from trainers.config import ExperimentConfig

RESERVED = (INVARIANT, "all", "embedding")
"""Names of spaces that are no effect's."""


def check_variants(config: "ExperimentConfig") -> None:
    """Refuse ``head.variant`` and ``encoder.own_blocks`` that cannot do what they say.

    Raises:
        ValueError: names the key, what there is and what to set.
    """
    effects = config.head.variant
    if not effects:
        _check_unused(config)
        return
    given = f"head.variant={','.join(effects)}"
    if config.loss.objective != "contrastive":
        raise ValueError(
            f"{given} with loss.objective={config.loss.objective}: its heads are of the contrastive loss; leave "
            "head.variant out, or set loss.objective=contrastive"
        )
    if config.views.count < 2:
        raise ValueError(
            f"{given} with views.count={config.views.count}: its positives are views of one clip; take views.count >= 2"
        )
    for effect in effects:
        _check_effect(config, effect)


def _check_unused(config: "ExperimentConfig") -> None:
    if config.encoder.own_blocks:
        raise ValueError(
            f"encoder.own_blocks={config.encoder.own_blocks} without head.variant: there is one head and nothing to "
            "split; name effects in head.variant, or set encoder.own_blocks=0"
        )
    for key in ("variant_positives", "variant_anchors"):
        value, default = getattr(config.loss, key), getattr(type(config.loss), key)
        if value != default:
            raise ValueError(
                f"loss.{key}={value} is a setting of the heads of head.variant, and there are none; leave it out, or "
                "name effects in head.variant"
            )


def _check_effect(config: "ExperimentConfig", effect: str) -> None:
    chances = config.augment.chances
    if effect in RESERVED or effect not in chances:
        near = difflib.get_close_matches(effect, chances, n=1)
        raise ValueError(
            f"head.variant: no effect {effect}; the chain tracks {', '.join(chances)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    own = next((place for place, extra in enumerate(config.augment.extra) if extra.effect == effect), None)
    key = f"augment.{effect}.p" if own is None else f"augment.extra.{own}.p"
    if chances[effect] == 0:
        raise ValueError(
            f"head.variant={effect} needs {key} > 0: the chain never applies {effect}, so its head would be one more "
            f"invariant head; effects that it applies: {_applied(chances)}"
        )
    if chances[effect] == 1 and config.loss.variant_positives == "untreated":
        raise ValueError(
            f"head.variant={effect} with {key}=1: every view gets {effect}, so its head never has a positive and its "
            f"loss is always 0; take {key} < 1"
        )


def _applied(chances: dict[str, float]) -> str:
    return ", ".join(name for name, chance in chances.items() if chance > 0) or "none (see augment.preset)"
