"""The text encoder that a configuration names."""

import torch

from cluster.settings import UserError, first_line
from trainers.text.config import TextConfig
from trainers.text.encoder import TextEncoder
from trainers.text.files import find_text_files
from trainers.text.folder import build_folder
from trainers.text.own import build_own_text
from trainers.text.words import build_words

_PROBES = ("a slow piece", "🎹 静かな曲, played live")


def build_text_encoder(config: TextConfig, *, seed: int) -> TextEncoder:
    """A text encoder with the weights that are trained chosen; in evaluation mode, and tried on two texts.

    Raises:
        UserError: if a file, a package or a layer is missing, or does not fit.
    """
    files = find_text_files(config)
    if files is not None:
        encoder = build_folder(files, config)
    elif config.is_own:
        encoder = build_own_text(config, seed=seed)
    else:
        encoder = build_words(seed=seed, max_tokens=config.max_tokens, prefix=config.prefix)
    encoder.set_trained(config.trains, config.top_layers)
    _try(encoder, f"text.path={config.path}" if config.path else f"text.encoder={config.encoder}")
    return encoder


@torch.no_grad()
def _try(encoder: TextEncoder, key: str) -> None:
    try:
        h_kE = encoder.encode(_PROBES)
    except UserError:
        raise
    except Exception as error:  # whatever a folder's or a user's network does with tokens
        raise UserError(
            f"{key}: it cannot embed a text ({first_line(error)}); give the text encoder of a model, not another part"
        ) from error
    if h_kE.shape != (len(_PROBES), encoder.width) or not torch.isfinite(h_kE).all():
        raise UserError(f"{key}: its vectors of texts are not finite, or not {encoder.width} wide")
