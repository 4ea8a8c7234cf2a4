"""The two-tower loss is the formula: value and every gradient against dense matrices and autograd."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from counterpoint import two_tower_loss

Keys = dict[str, Any]


class Case(NamedTuple):
    """Arguments of the loss by name, and its settings."""

    z: Keys
    numbers: Keys
    settings: Keys


def make_case(seed: int, *, audio: int = 11, texts: int = 17, tags: int = 5, **settings: Any) -> Case:
    """Clips with several audio rows and texts, equal texts, hard rows, padding, guards."""
    g = torch.Generator().manual_seed(seed)
    clips = torch.randint(-(2**62), 2**62, (7,), generator=g)
    clip_audio = clips[torch.randint(0, 7, (audio,), generator=g)]
    clip_text = clips[torch.randint(0, 7, (texts,), generator=g)]
    hard = torch.rand(texts, generator=g) < 0.3
    present = torch.rand(texts, generator=g) < 0.85
    text_hash = torch.randint(-(2**62), 2**62, (9,), generator=g)[torch.randint(0, 9, (texts,), generator=g)]
    z = {
        "z_audio": 3 * torch.randn(audio, 6, generator=g, dtype=torch.float64),
        "z_text": torch.randn(texts, 6, generator=g, dtype=torch.float64),
        "temperature": torch.tensor(settings.pop("temperature", 0.3), dtype=torch.float64),
    }
    if settings.get("pairs") == "sigmoid":
        z["bias"] = torch.tensor(-1.3, dtype=torch.float64)
    numbers = {"clip_audio": clip_audio, "clip_text": clip_text, "hard": hard, "present": present}
    if settings.pop("hashed", True):
        numbers["text_hash"] = text_hash
    if tags:
        numbers["tags_audio"] = torch.rand(audio, tags, generator=g) < 0.6
        numbers["tags_text"] = torch.rand(texts, tags, generator=g) < 0.4
    return Case(z, numbers, settings)


def relations(case: Case) -> tuple[Tensor, Tensor]:
    """Which pairs are positives and which count at all, by loops over the definition."""
    numbers, settings = case.numbers, case.settings
    audio, texts = len(numbers["clip_audio"]), len(numbers["clip_text"])
    hard = numbers.get("hard", torch.zeros(texts, dtype=torch.bool)).tolist()
    present = numbers.get("present", torch.ones(texts, dtype=torch.bool)).tolist()
    hashes = numbers.get("text_hash", torch.arange(texts)).tolist()
    clip_audio, clip_text = numbers["clip_audio"].tolist(), numbers["clip_text"].tolist()
    weight, allowed = torch.zeros(audio, texts, dtype=torch.float64), torch.ones(audio, texts, dtype=torch.float64)
    for i in range(audio):
        of_clip = {hashes[j] for j in range(texts) if present[j] and not hard[j] and clip_text[j] == clip_audio[i]}
        for j in range(texts):
            own, same = clip_text[j] == clip_audio[i], hashes[j] in of_clip
            if not present[j]:
                allowed[i, j] = 0
            elif not hard[j]:
                how = settings.get("same_text", "positive")
                weight[i, j] = own or (same and how == "positive")
                allowed[i, j] = own or not (same and how == "ignored")
            else:
                holds = "tags_text" in numbers and not bool((numbers["tags_text"][j] & ~numbers["tags_audio"][i]).any())
                allowed[i, j] = not (same or holds or (settings.get("scope", "all") == "own" and not own))
    return weight, allowed


def dense(case: Case) -> Any:
    """The formula with N×M matrices."""
    weight, allowed = relations(case)
    a, t = (functional.normalize(case.z[name], dim=1) for name in ("z_audio", "z_text"))
    s = a @ t.T / case.z["temperature"]
    if case.settings.get("pairs") == "sigmoid":
        sign = 2 * weight - 1
        return torch.sum(-functional.logsigmoid(sign * (s + case.z["bias"])) * allowed) / len(a)
    texts = len(t)
    true = case.numbers.get("present", torch.ones(texts, dtype=torch.bool)) & ~case.numbers.get(
        "hard", torch.zeros(texts, dtype=torch.bool)
    )
    blocked = allowed == 0
    audio = _side(s, weight, blocked).sum() / len(a)
    text = _side(s.T, weight.T, blocked.T)[true].sum() / max(int(true.sum()), 1)
    share = case.settings.get("audio_share", 0.5)
    return share * audio + (1 - share) * text


def _side(s: Tensor, weight: Tensor, blocked: Tensor) -> Tensor:
    there = weight.sum(1) > 0
    lse = s.masked_fill(blocked, -math.inf)[there].logsumexp(1)
    terms = lse - (weight * s)[there].sum(1) / weight.sum(1)[there]
    return torch.zeros(len(s), dtype=s.dtype).masked_scatter(there, terms)


def value_and_gradients(loss: Any, case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    z = {name: value.clone().requires_grad_() for name, value in case.z.items()}
    value = loss(case._replace(z=z))
    found = torch.autograd.grad(value, list(z.values()), allow_unused=True)
    return value.detach(), {
        name: torch.zeros_like(z[name]) if gradient is None else gradient
        for name, gradient in zip(z, found, strict=True)
    }


def ours(case: Case, **more: Any) -> Tensor:
    return two_tower_loss(**case.z, **case.numbers, **{"tile": 4, **case.settings, **more})


def assert_agree(case: Case, **more: Any) -> None:
    expected, wanted = value_and_gradients(dense, case)
    value, got = value_and_gradients(lambda given: ours(given, **more), case)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-14)
    for name, gradient in got.items():
        scale = max(float(wanted[name].norm()), 1e-3)
        assert float((gradient - wanted[name]).norm()) / scale < 1e-12, name


SETTINGS: dict[str, Keys] = {
    "default": {},
    "no_hash": {"hashed": False},
    "no_tags": {"tags": 0},
    "ignored": {"same_text": "ignored"},
    "negative": {"same_text": "negative"},
    "own": {"scope": "own"},
    "own_ignored_no_tags": {"scope": "own", "same_text": "ignored", "tags": 0},
    "audio_only": {"audio_share": 1.0},
    "mostly_text": {"audio_share": 0.2},
    "few_texts": {"audio": 13, "texts": 5},
    "one_audio_row": {"audio": 1, "texts": 6},
    "sharp": {"temperature": 0.01},
    "sharp_online": {"temperature": 0.0031},
    "sigmoid": {"pairs": "sigmoid"},
    "sigmoid_own": {"pairs": "sigmoid", "scope": "own", "same_text": "ignored"},
}


@pytest.mark.parametrize("tile", [1, 4, 512])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_value_and_every_gradient_are_those_of_dense_matrices(name: str, seed: int, tile: int) -> None:
    assert_agree(make_case(seed, **SETTINGS[name]), tile=tile)
