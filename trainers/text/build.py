"""The text encoder that a configuration names."""

from trainers.text.config import TextConfig
from trainers.text.encoder import TextEncoder
from trainers.text.words import build_words


def build_text_encoder(config: TextConfig, *, seed: int) -> TextEncoder:
    """A text encoder with the weights that are trained chosen; in evaluation mode.

    Args:
        config: which.
        seed: of first weights, where there are such; the same for the same seed on every rank.

    Raises:
        UserError: if a file, a package or a layer is missing, or does not fit.
    """
    encoder: TextEncoder = build_words(seed=seed, max_tokens=config.max_tokens, prefix=config.prefix)
    encoder.set_trained(config.trains, config.top_layers)
    return encoder
