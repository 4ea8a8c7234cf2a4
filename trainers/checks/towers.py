"""Settings of two towers that do not fit together: refused when the configuration is made. No torch here."""

from typing import TYPE_CHECKING

from cluster.settings import flatten, to_tree

if TYPE_CHECKING:
    from trainers.config import ExperimentConfig


def check_towers(config: "ExperimentConfig") -> None:
    """Refuse keys of two towers without them, and with them what they cannot be trained with.

    Raises:
        ValueError: names the key and what to set.
    """
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
