"""Vectors of texts on disk: the same bits as encoding, shared, and mended where they are damaged."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cluster.settings import UserError
from trainers.text.build import build_text_encoder
from trainers.text.cache import SentenceVectors
from trainers.text.config import TextConfig
from trainers.text.encoder import TextEncoder

TEXTS = [f"piece {number} with a flute" for number in range(40)] + ["", "静かな曲 🎹"]


def fixed(seed: int = 0) -> TextEncoder:
    return build_text_encoder(TextConfig(encoder="words", trained="locked"), seed=seed)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_cache_gives_the_same_bits_as_encoding(tmp_path: Path, on_disk: bool) -> None:
    encoder = fixed()
    wanted = encoder.encode(TEXTS)
    vectors = SentenceVectors(encoder, tmp_path if on_disk else None)
    assert torch.equal(vectors.encode(TEXTS[:7]), wanted[:7])
    assert torch.equal(vectors.encode(TEXTS[5:] + TEXTS), torch.cat([wanted[5:], wanted]))
    assert len(vectors) == len(TEXTS)
    assert vectors.encode([]).shape == (0, encoder.width)
    if on_disk:
        again = SentenceVectors(fixed(), tmp_path)
        assert len(again) == len(TEXTS)
        assert torch.equal(again.encode(TEXTS), wanted)


def test_another_encoder_has_another_file(tmp_path: Path) -> None:
    SentenceVectors(fixed(), tmp_path).encode(TEXTS)
    other = SentenceVectors(fixed(seed=1), tmp_path)
    assert len(other) == 0
    assert torch.equal(other.encode(TEXTS), fixed(seed=1).encode(TEXTS))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_embedded_is_not_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SentenceVectors(fixed(), tmp_path), SentenceVectors(fixed(), tmp_path)
    first.encode(TEXTS)
    second.encode(TEXTS[:1])  # takes in what the other appended
    monkeypatch.setattr(TextEncoder, "encode", None)
    assert second.encode(TEXTS).shape == (len(TEXTS), first.encoder.width)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_row_is_embedded_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    SentenceVectors(fixed(), tmp_path).encode(TEXTS)
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content[:-5] if damage == "cut" else content)
    vectors = SentenceVectors(fixed(), tmp_path)
    assert len(vectors) == len(TEXTS) - (2 if damage == "cut" else 1)
    assert "damaged" in caplog.text
    assert torch.equal(vectors.encode(TEXTS), fixed().encode(TEXTS))
    assert len(SentenceVectors(fixed(), tmp_path)) == len(TEXTS)


def _fill(folder: Path, start: int) -> None:
    vectors = SentenceVectors(fixed(), folder)
    for at in range(len(TEXTS)):
        vectors.encode([TEXTS[(start + at) % len(TEXTS)]])


def test_writers_share_one_file(tmp_path: Path) -> None:
    """The lock is one of the open file, so threads are kept apart as processes are."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(_fill, [tmp_path] * 3, (0, 14, 28)))
    vectors = SentenceVectors(fixed(), tmp_path)
    assert len(vectors) == vectors._seen == len(TEXTS)
    assert torch.equal(vectors.encode(TEXTS), fixed().encode(TEXTS))


def test_what_is_trained_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not trained"):
        SentenceVectors(build_text_encoder(TextConfig(encoder="words"), seed=0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"text.cache=.*choose another"):
        SentenceVectors(fixed(), tmp_path / "file")
