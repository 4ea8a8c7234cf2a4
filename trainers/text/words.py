"""A bag of hashed words and their pieces, trained from scratch: the text encoder that needs no file.

A text is the mean of the vectors of its words and of their pieces of three characters, so that "drum" and "drums" share
most of theirs. Templated captions need no more.

Source: arXiv:1607.04606 (vectors of character n-grams, hashed).

Shape suffixes: k texts, L pieces, E encoder width.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from trainers.text.encoder import TextEncoder, Tokens, mean_of_tokens, pad
from trainers.text.wordpiece import MAX_WORD, basic_words

BUCKETS = 1 << 14
"""Vectors that words and pieces are hashed to."""
WIDTH = 128
PIECE = 3
"""Characters of a piece."""


class Words(TextEncoder):
    """Mean of hashed vectors, then a LayerNorm. Its first weights depend on torch's generator only."""

    def __init__(self, *, max_tokens: int = 64, prefix: str = "") -> None:
        super().__init__()
        self.width, self.max_tokens, self.prefix = WIDTH, max_tokens, prefix
        self.pieces = nn.Embedding(BUCKETS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Buckets of the first ``max_tokens`` words of each text and of their pieces."""
        rows, truncated = [], 0
        for text in texts:
            words = basic_words(self.prefix + text)
            truncated += len(words) > self.max_tokens
            rows.append([bucket for word in words[: self.max_tokens] for bucket in _buckets(word)])
        return pad(rows, truncated)

    def forward(self, tokens: Tokens) -> Tensor:
        """Mean vectors (k, E), normalised over E; a text without words gives the norm's bias."""
        h_kE: Tensor = self.norm(mean_of_tokens(self.pieces(tokens.ids_kL), tokens.mask_kL))
        return h_kE

    def tokenizer_state(self) -> bytes:
        """The numbers that determine the buckets."""
        return f"words {BUCKETS} {PIECE} {self.max_tokens} {self.prefix!r}".encode()


@lru_cache(maxsize=1 << 16)
def _buckets(word: str) -> tuple[int, ...]:
    """Buckets of a word and of its pieces, the word's ends marked."""
    marked = f"<{word[:MAX_WORD]}>"
    pieces = {marked[at : at + PIECE] for at in range(len(marked) - PIECE + 1)} - {marked}
    return tuple(_bucket(piece) for piece in (marked, *sorted(pieces)))


def _bucket(piece: str) -> int:
    digest = hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % BUCKETS


def build_words(*, seed: int, max_tokens: int = 64, prefix: str = "") -> Words:
    """A bag of words at its first weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Words(max_tokens=max_tokens, prefix=prefix)
