"""What every text encoder is: a module that turns texts into tokens, and tokens into one vector a text.

Shape suffixes: k texts, L tokens of the longest text, E encoder width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cluster.settings import UserError
from trainers.text.config import Trained

LOCKED_HASH = "locked_hash"
"""Buffer that names the fixed weights, which a snapshot leaves out."""


class Tokens(NamedTuple):
    """Texts as an encoder reads them."""

    ids_kL: Tensor
    """int32, shape (k, L); what the mask leaves out is padding."""
    mask_kL: Tensor
    """bool, shape (k, L)."""
    truncated: int = 0
    """Texts of which a part was cut off."""

    def to(self, device: torch.device | str) -> "Tokens":
        """The same on another device."""
        return Tokens(self.ids_kL.to(device), self.mask_kL.to(device), self.truncated)


class TextEncoder(nn.Module):
    """Texts in, one vector a text out.

    A subclass sets ``width``, defines `tokenize`, `forward` and `tokenizer_state`, and calls `set_trained` at the end
    of its ``__init__``. Weights that are not trained are no part of ``state_dict``: a snapshot holds their hash alone,
    and refuses to load into an encoder with others.
    """

    width: int
    """E."""
    locked_hash: Tensor

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Cut texts into tokens, at most ``max_tokens`` of each."""
        raise NotImplementedError

    def forward(self, tokens: Tokens) -> Tensor:
        """Embed tokens: (k, ``width``), not normalised."""
        raise NotImplementedError

    def tokenizer_state(self) -> bytes:
        """All that determines the tokens of a text, for `hash`."""
        raise NotImplementedError

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers that ``text.trained=top:N`` counts, first to last."""
        return ()

    @property
    def hash(self) -> str:
        """SHA-256 of the weights as they are now and of the tokenizer."""
        return _digest(dict(self._weights()), self.tokenizer_state()).hex()

    @property
    def is_locked(self) -> bool:
        """Whether no weight is trained, so that a text's vector never changes."""
        return not any(weight.requires_grad for weight in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts (k, E).

        A fixed encoder embeds each distinct text by itself, so that a text's vector has the same bits in every batch.
        """
        if self.is_locked and not self.training:
            with torch.no_grad():
                found = {text: self(self.tokenize([text]).to(self.device))[0] for text in dict.fromkeys(texts)}
            empty = torch.empty(0, self.width, device=self.device)
            return torch.stack([found[text] for text in texts]) if texts else empty
        h_kE: Tensor = self(self.tokenize(texts).to(self.device))
        return h_kE

    def set_trained(self, trained: Trained, top_layers: int = 0) -> None:
        """Choose which weights are trained, when the encoder is complete. Raises UserError if it has too few layers."""
        if top_layers > len(self.layers):
            raise UserError(
                f"text.trained=top:{top_layers}: this text encoder has {len(self.layers)} layers; "
                f"{'set text.trained=all or projection' if not self.layers else 'take at most so many'}"
            )
        self.requires_grad_(trained == "all")
        self._trained: list[nn.Module] = (
            [self] if trained == "all" else list(self.layers[len(self.layers) - top_layers :])
        )
        for layer in self._trained:
            layer.requires_grad_(True)
        if trained != "all":
            fixed = {name: value for name, value in self._weights() if not _requires_grad(self, name)}
            digest = _digest(fixed, self.tokenizer_state())
            self.register_buffer(LOCKED_HASH, torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone())
        self.register_state_dict_post_hook(_leave_out_fixed)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fill_in_fixed)  # type: ignore[no-untyped-call]
        self.train(False)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set the mode of what is trained; everything else stays in evaluation mode."""
        super().train(mode and self._trained == [self])
        for layer in self._trained:
            if layer is not self:
                layer.train(mode)
        return self

    def _weights(self) -> list[tuple[str, Tensor]]:
        return [
            (name, value) for name, value in (*self.named_parameters(), *self.named_buffers()) if name != LOCKED_HASH
        ]


def pad(rows: Sequence[Sequence[int]], truncated: int) -> Tokens:
    """Token ids of several texts as one batch."""
    longest = max(map(len, rows), default=0)
    ids_kL = np.zeros((len(rows), longest), np.int32)
    mask_kL = np.zeros((len(rows), longest), np.bool_)
    for row, ids in enumerate(rows):
        ids_kL[row, : len(ids)] = ids
        mask_kL[row, : len(ids)] = True
    return Tokens(torch.from_numpy(ids_kL), torch.from_numpy(mask_kL), truncated)


def mean_of_tokens(h_kLE: Tensor, mask_kL: Tensor) -> Tensor:
    """Mean over the tokens of each text; a text without any gives zeros."""
    weight_kL1 = mask_kL[..., None].to(h_kLE.dtype)
    return (h_kLE * weight_kL1).sum(1) / weight_kL1.sum(1).clamp(min=1)


def _digest(weights: Mapping[str, Tensor], tokenizer: bytes) -> bytes:
    digest = hashlib.sha256(tokenizer)
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.digest()


def _requires_grad(module: nn.Module, name: str) -> bool:
    """Whether a parameter is trained, or a buffer belongs to a part of which something is."""
    owner, _, leaf = name.rpartition(".")
    part = module.get_submodule(owner)
    parameter = part._parameters.get(leaf)
    if parameter is not None:
        return parameter.requires_grad
    return any(weight.requires_grad for weight in part.parameters())


def _leave_out_fixed(module: nn.Module, state: dict[str, Any], prefix: str, _local: Any) -> None:
    for name, _ in module._weights():  # type: ignore[operator]
        if not _requires_grad(module, name):
            state.pop(prefix + name, None)


def _fill_in_fixed(
    module: nn.Module, state: dict[str, Any], prefix: str, _local: Any, _strict: bool, _missing: Any, _unexpected: Any,
    errors: list[str],
) -> None:  # fmt: skip
    """Fixed weights are those of the files that the encoder was made from, if they are the snapshot's."""
    here, there = getattr(module, LOCKED_HASH, None), state.get(prefix + LOCKED_HASH)
    if here is not None and there is not None and not torch.equal(here.cpu(), there.cpu()):
        errors.append("the fixed weights or the tokenizer of the text encoder are not those that it was trained with")
    for name, value in module._weights():  # type: ignore[operator]
        if not _requires_grad(module, name):
            state.setdefault(prefix + name, value)
