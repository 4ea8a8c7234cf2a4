"""The bag of words, and what holds for every text encoder."""

import copy

import pytest
import torch
from torch import nn

from cluster.settings import UserError
from trainers.text.build import build_text_encoder
from trainers.text.config import TextConfig
from trainers.text.encoder import TextEncoder

TEXTS = ["A slow waltz with a flute.", "fast techno", "", "静かな曲 🎹", "naïve Café", "word " * 10_000]


def words(**keys: object) -> TextEncoder:
    return build_text_encoder(TextConfig(encoder="words", **keys), seed=3)  # type: ignore[arg-type]


def test_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = words().hash
    torch.manual_seed(1)
    assert words().hash == first
    assert build_text_encoder(TextConfig(encoder="words"), seed=4).hash != first


def test_vectors_depend_on_neither_padding_nor_the_batch() -> None:
    encoder = words()
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.width)
    assert torch.isfinite(together).all()
    for text, h_E in zip(TEXTS, together, strict=True):
        assert torch.allclose(encoder.encode([text])[0], h_E, atol=1e-6)


def test_a_fixed_encoder_gives_the_same_bits_in_every_batch() -> None:
    encoder = words(trained="projection")
    together = encoder.encode(TEXTS + TEXTS)
    for text, h_E in zip(TEXTS, together, strict=False):
        assert torch.equal(encoder.encode([text])[0], h_E)
    assert encoder.encode([]).shape == (0, encoder.width)


def test_long_texts_are_cut_and_counted() -> None:
    encoder = words(max_tokens=8)
    tokens = encoder.tokenize(["one two three", "word " * 9, "word " * 8])
    assert tokens.truncated == 1
    assert torch.equal(encoder.encode(["word " * 8]), encoder.encode(["word " * 10_000]))


def test_words_in_another_form_share_vectors() -> None:
    encoder = words()
    drum, drums, flute = torch.nn.functional.normalize(encoder.encode(["drum", "drums", "flute"]))
    assert drum @ drums > drum @ flute + 0.2


def test_what_is_fixed_stays_in_evaluation_mode_and_out_of_the_state() -> None:
    encoder = words(trained="locked")
    encoder.train()
    assert not any(part.training for part in encoder.modules())
    assert set(encoder.state_dict()) == {"locked_hash"}
    trained = words()
    trained.train()
    assert all(part.training for part in trained.modules())
    assert "pieces.weight" in trained.state_dict()


def test_a_state_loads_into_the_same_fixed_weights_only() -> None:
    class Tower(nn.Module):
        def __init__(self, text: TextEncoder) -> None:
            super().__init__()
            self.text, self.projection = text, nn.Linear(text.width, 4)

    tower = Tower(words(trained="projection"))
    state = copy.deepcopy(tower.state_dict())
    same = Tower(words(trained="projection"))
    same.load_state_dict(state)
    assert same.text.hash == tower.text.hash
    other = Tower(build_text_encoder(TextConfig(encoder="words", trained="projection"), seed=4))
    with pytest.raises(RuntimeError, match="not those that it was trained with"):
        other.load_state_dict(state)


def test_the_hash_names_weights_and_tokenizer() -> None:
    encoder = words()
    before = encoder.hash
    with torch.no_grad():
        next(encoder.parameters())[0] += 1
    assert encoder.hash != before
    assert words(max_tokens=8).hash != before
    assert words(prefix="query: ").hash != before


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"encoder": "bert-base-uncased"}, "encoder must be words, bundled, folder or module:factory"),
        ({"encoder": "sentence-transformers/all-MiniLM-L6-v2"}, "encoder must be words, bundled, folder"),
        ({"encoder": "folder"}, "set text.path=DIR"),
        ({"encoder": "words", "path": "x"}, "leave it out for words"),
        ({"encoder": "words", "trained": "top:2"}, "has none: set trained=all"),
        ({"trained": "top"}, "trained must be locked, projection, top:N or all"),
        ({"trained": "top:0"}, "trained must be"),
        ({"rate": 0.0}, "rate must be > 0"),
        ({"max_tokens": 2}, r"max_tokens must be in \[4, 8192\], got 2"),
        ({"hidden": -1}, "hidden must be >= 0"),
        ({"encoder": "words", "pooling": "mean"}, "pooling is a setting of encoder=folder"),
    ],
)
def test_wrong_keys_are_refused(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TextConfig(**keys)  # type: ignore[arg-type]


def test_more_layers_than_there_are_is_refused() -> None:
    encoder = words()
    with pytest.raises(UserError, match="top:2: this text encoder has 0 layers"):
        encoder.set_trained("top", 2)
