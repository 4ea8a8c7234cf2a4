"""BERT's encoder in plain torch: reads the weights of BERT, MiniLM, E5, BGE, GTE and their like.

Token type 0, learned positions, post-norm layers, exact GELU; no dropout, so that a step is a function of its batch
alone. The pooler is left out.

Source: arXiv:1810.04805.

Shape suffixes: k texts, L tokens, E width, H heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.text.config import Pooling
from trainers.text.encoder import TextEncoder, Tokens, mean_of_tokens, pad
from trainers.text.wordpiece import WordPiece

_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "last_norm": "output.LayerNorm",
}
"""Modules of a layer here, and their names in published weights."""
_EMBEDDINGS = {"words": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}


@dataclass(frozen=True, kw_only=True)
class BertShape:
    """Sizes of a BERT, by their names in ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "BertShape":
        """Of a ``config.json``. The ValueError names what is missing or no positive number."""
        found = {}
        for item in fields(cls):
            value = config.get(item.name, item.default)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{item.name} must be a number > 0")
            found[item.name] = float(value) if item.name == "layer_norm_eps" else int(value)
        if found["hidden_size"] % found["num_attention_heads"]:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        return cls(**found)  # type: ignore[arg-type]


class BertLayer(nn.Module):
    """Self-attention and two linear layers, each added to its input and normalised."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        width, inner, eps = shape.hidden_size, shape.intermediate_size, shape.layer_norm_eps
        self.num_heads = shape.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps)
        self.widen, self.narrow, self.last_norm = (
            nn.Linear(width, inner),
            nn.Linear(inner, width),
            nn.LayerNorm(width, eps),
        )

    def forward(self, h_kLE: Tensor, mask_k11L: Tensor) -> Tensor:
        """The layer's output (k, L, E); attention reads only what the mask holds."""
        k, length, width = h_kLE.shape

        def heads(x_kLE: Tensor) -> Tensor:
            return x_kLE.view(k, length, self.num_heads, -1).transpose(1, 2)

        read_kHLE = F.scaled_dot_product_attention(
            heads(self.query(h_kLE)), heads(self.key(h_kLE)), heads(self.value(h_kLE)), attn_mask=mask_k11L
        )
        h_kLE = self.norm(h_kLE + self.output(read_kHLE.transpose(1, 2).reshape(k, length, width)))
        out_kLE: Tensor = self.last_norm(h_kLE + self.narrow(F.gelu(self.widen(h_kLE))))
        return out_kLE


class Bert(TextEncoder):
    """BERT with one vector a text.

    Args:
        shape: sizes.
        wordpiece: the tokenizer of its vocabulary.
        pooling: how tokens become one vector.
        max_tokens: read of a text, [CLS] and [SEP] included.
        prefix: put before every text.
    """

    def __init__(
        self,
        shape: BertShape,
        wordpiece: WordPiece,
        *,
        pooling: Pooling = "mean",
        max_tokens: int = 64,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.width = shape.hidden_size
        self.wordpiece, self.pooling, self.max_tokens, self.prefix = wordpiece, pooling, max_tokens, prefix
        self.words = nn.Embedding(shape.vocab_size, self.width)
        self.positions = nn.Embedding(shape.max_position_embeddings, self.width)
        self.types = nn.Embedding(shape.type_vocab_size, self.width)
        self.norm = nn.LayerNorm(self.width, shape.layer_norm_eps)
        self.blocks = nn.ModuleList(BertLayer(shape) for _ in range(shape.num_hidden_layers))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Its transformer layers."""
        return list(self.blocks)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Pieces of each text."""
        rows = [self.wordpiece.ids(self.prefix + text, self.max_tokens) for text in texts]
        return pad([ids for ids, _ in rows], sum(cut for _, cut in rows))

    def tokenizer_state(self) -> bytes:
        """The vocabulary, and what is done to a text before and after."""
        return self.wordpiece.state() + f"{self.pooling} {self.max_tokens} {self.prefix!r}".encode()

    def forward(self, tokens: Tokens) -> Tensor:
        """One vector a text, (k, E)."""
        length = tokens.ids_kL.shape[1]
        h_kLE = self.norm(self.words(tokens.ids_kL) + self.positions.weight[:length] + self.types.weight[0])
        mask_k11L = tokens.mask_kL[:, None, None, :]
        for block in self.blocks:
            h_kLE = block(h_kLE, mask_k11L)
        return pool(h_kLE, tokens.mask_kL, self.pooling)

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a published model. Raises ValueError if one is missing or has another shape."""
        weights = {name.removeprefix("bert."): value for name, value in weights.items()}
        named = {f"{here}.weight": f"embeddings.{there}.weight" for here, there in _EMBEDDINGS.items()}
        for leaf in ("weight", "bias"):
            named[f"norm.{leaf}"] = f"embeddings.LayerNorm.{leaf}"
            for number in range(len(self.blocks)):
                for here, there in _NAMES.items():
                    named[f"blocks.{number}.{here}.{leaf}"] = f"encoder.layer.{number}.{there}.{leaf}"
        for name, parameter in self.named_parameters():
            found = weights.get(named[name])
            if found is None:
                raise ValueError(f"it has no tensor {named[name]}")
            if found.shape != parameter.shape:
                shapes = f"{tuple(found.shape)}, its config.json says {tuple(parameter.shape)}"
                raise ValueError(f"its tensor {named[name]} has shape {shapes}")
            with torch.no_grad():
                parameter.copy_(found)


def pool(h_kLE: Tensor, mask_kL: Tensor, pooling: Pooling) -> Tensor:
    """One vector of the tokens of each text: their mean, the first, or the last (the end mark, where there is one)."""
    if pooling == "mean":
        return mean_of_tokens(h_kLE, mask_kL)
    if pooling == "cls":
        return h_kLE[:, 0]
    last_k = mask_kL.sum(1).clamp(min=1) - 1
    return h_kLE[torch.arange(len(h_kLE), device=h_kLE.device), last_k]
