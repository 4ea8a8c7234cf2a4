"""The text encoder that a configuration names; a user's own, held to the contract."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cluster.entry_points import create
from cluster.settings import UserError, first_line
from trainers.text.config import TextConfig
from trainers.text.encoder import TextEncoder, Tokens
from trainers.text.files import find_text_files
from trainers.text.folder import build_folder
from trainers.text.words import build_words

_PROBES = ("a slow piece", "🎹 静かな曲, played live")


def build_text_encoder(config: TextConfig, *, seed: int) -> TextEncoder:
    """A text encoder with the weights that are trained chosen; in evaluation mode, and tried on two texts.
    Raises UserError if a file, a package or a layer is missing, or does not fit.
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


class OwnTextEncoder(TextEncoder):
    """A user's network behind the interface of the built-in text encoders.

    Args:
        name: ``module:factory``, for messages.
        network: with ``width`` (E), ``tokenize`` from a list of k texts to ids and mask, both (k, L), and a forward
            from those two to (k, E); optionally ``layers``, for ``text.trained=top:N``.
        state: all that determines its tokens.

    Raises:
        UserError: names what is missing.
    """

    def __init__(self, name: str, network: nn.Module, state: str) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise UserError(f"text.encoder={name}: the factory returned a {type(network).__name__}, not an nn.Module")
        width = getattr(network, "width", None)
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UserError(f"text.encoder={name}: its attribute width must be a whole number > 0, got {width!r}")
        if not callable(getattr(network, "tokenize", None)):
            raise UserError(f"text.encoder={name}: it has no method tokenize(texts) that returns ids and mask")
        self.name, self.network, self.width, self._state = name, network, width, state

    @property
    def layers(self) -> Sequence[nn.Module]:
        """What the network calls its layers."""
        found: Any = getattr(self.network, "layers", ())
        return list(found)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens of the user's tokenizer.
        Raises UserError if it returns anything but two tensors of one shape, a row a text.
        """
        tokenize: Any = self.network.tokenize
        found = tokenize(list(texts))
        pair = isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Tensor) for part in found)
        if not pair or found[0].shape != found[1].shape or found[0].ndim != 2 or len(found[0]) != len(texts):
            raise UserError(f"text.encoder={self.name}: tokenize must return ids and mask, both ({len(texts)}, L)")
        return Tokens(found[0].int(), found[1].bool())

    def tokenizer_state(self) -> bytes:
        """Name and settings of the factory."""
        return self._state.encode()

    def forward(self, tokens: Tokens) -> Tensor:
        """One vector a text, (k, E). Raises UserError if the network returns another shape."""
        h_kE = self.network(tokens.ids_kL, tokens.mask_kL)
        wanted = (len(tokens.ids_kL), self.width)
        if not isinstance(h_kE, Tensor) or h_kE.shape != wanted:
            got = f"shape {tuple(h_kE.shape)}" if isinstance(h_kE, Tensor) else f"a {type(h_kE).__name__}"
            raise UserError(f"text.encoder={self.name}: its forward returned {got}, not {wanted}")
        return h_kE


def build_own_text(config: TextConfig, *, seed: int) -> OwnTextEncoder:
    """The encoder that ``text.encoder=module:factory`` names.
    Raises UserError if it cannot be imported or made, or does not fit the contract.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create(config.encoder, config.settings, "text.encoder", max_tokens=config.max_tokens)
    return OwnTextEncoder(config.encoder, network, repr((config.encoder, config.settings, config.max_tokens)))
