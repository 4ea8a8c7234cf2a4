"""Settings of two towers, and of heads that leave an effect out, that do not fit together. No torch here.

They are refused when the configuration is made.
"""

from typing import TYPE_CHECKING

from cluster.settings import flatten, to_tree
from cluster.validation.messages import nearest
from trainers.encoders.config import INVARIANT

if TYPE_CHECKING:
    from trainers.config import ExperimentConfig

RESERVED = (INVARIANT, "all", "embedding")
"""Names of spaces that are no effect's."""


def check_towers(config: "ExperimentConfig") -> None:
    """Refuse keys of two towers without them, and with them what they cannot be trained with."""
    if not config.reads_texts:
        _refuse_without_towers(config)
        return
    if config.optim.compile:
        raise ValueError(
            "optim.compile=true with loss.objective=music_text: the number of texts differs from step to step, and "
            "each would be compiled anew; set optim.compile=false"
        )
    if config.encoder.locked and config.init_from is None:
        raise ValueError(
            "encoder.locked=true keeps the audio tower of init_from, and none is given; set init_from=RUN, or "
            "encoder.locked=false"
        )
    if config.encoder.locked and config.optim.checkpoint_blocks:
        raise ValueError(
            "optim.checkpoint_blocks keeps no activations of an encoder that is trained; with encoder.locked=true "
            "there are none: leave it out"
        )
    if config.encoder.locked and config.frontend.trainable:
        raise ValueError("encoder.locked=true fixes frontend.trainable=true too; set frontend.trainable=false")
    if config.encoder.locked and config.optim.micro_batch is not None:
        raise ValueError(
            "optim.micro_batch bounds the activations of an encoder that is trained; with encoder.locked=true there "
            "are none: leave it and encoder.batch_norm out"
        )


def _refuse_without_towers(config: "ExperimentConfig") -> None:
    if config.encoder.locked:
        raise ValueError(
            f"encoder.locked=true is for loss.objective=music_text; with {config.loss.objective} the encoder is what "
            "is trained: leave it out"
        )
    defaults = flatten(to_tree(type(config.text)()))
    given = [name for name, value in flatten(to_tree(config.text)).items() if defaults.get(name, value) != value]
    if given or flatten(to_tree(config.text)).keys() != defaults.keys():
        names = ", ".join(f"text.{name}" for name in given) or "text.settings"
        raise ValueError(
            f"{names}: keys of a text tower, which loss.objective={config.loss.objective} has not; set "
            "loss.objective=music_text, or leave them out"
        )


def check_variants(config: "ExperimentConfig") -> None:
    """Refuse ``head.variant`` and ``encoder.own_blocks`` that cannot do what they say."""
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
        tracked = ", ".join(chances)
        raise ValueError(f"head.variant: no effect {effect}; the chain tracks {tracked}{nearest(effect, chances)}")
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
