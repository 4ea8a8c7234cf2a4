"""The two-tower loss on several ranks is that of the global batch: value, gradients after DDP, bytes, refusals."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.distributed import collectives
from trainers.losses.two_tower.loss import two_tower_loss

Ranks = Callable[..., list[Any]]
Keys = dict[str, Any]
pytestmark = pytest.mark.dist

AUDIO, TEXTS, WIDTH, TAGS = 12, 24, 6, 11


def global_batch(seed: int = 3) -> Keys:
    """Clips whose audio rows and texts lie on different ranks, equal texts, hard rows, padding; none on rank 1 of 4."""
    g = torch.Generator().manual_seed(seed)
    clips = torch.randint(-(2**62), 2**62, (8,), generator=g)
    hashes = torch.randint(-(2**62), 2**62, (10,), generator=g)
    present = torch.rand(TEXTS, generator=g) < 0.8
    present[TEXTS // 4 : TEXTS // 2] = False
    return {
        "audio": torch.randn(AUDIO, 5, generator=g, dtype=torch.float64),
        "text": torch.randn(TEXTS, 4, generator=g, dtype=torch.float64),
        "clip_audio": clips[torch.randint(0, 8, (AUDIO,), generator=g)],
        "clip_text": clips[torch.randint(0, 8, (TEXTS,), generator=g)],
        "hard": torch.rand(TEXTS, generator=g) < 0.3,
        "present": present,
        "text_hash": hashes[torch.randint(0, 10, (TEXTS,), generator=g)],
        "tags_audio": torch.rand(AUDIO, TAGS, generator=g) < 0.7,
        "tags_text": torch.rand(TEXTS, TAGS, generator=g) < 0.2,
    }


class Towers(nn.Module):
    """Two small networks, under one DDP."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.audio = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, WIDTH)).double()
            self.text = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, WIDTH)).double()

    def forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Projections of both."""
        return self.audio(audio), self.text(text)


def own_part(batch: Keys) -> Keys:
    rank, world = collectives.rank(), collectives.world_size()
    return {name: part[rank * len(part) // world : (rank + 1) * len(part) // world] for name, part in batch.items()}


def learn(settings: Keys) -> tuple[Tensor, list[Tensor]]:
    """Loss, and the gradients of both networks, of the temperature and the bias, after real DDP."""
    mine = own_part(global_batch())
    model = Towers()
    scale = nn.Parameter(torch.tensor(settings.get("scale", 1.2), dtype=torch.float64))
    outside = [scale]
    keys = {name: value for name, value in settings.items() if name != "scale"}
    if keys.get("pairs") == "sigmoid":
        outside.append(nn.Parameter(torch.tensor(-2.0, dtype=torch.float64)))
        keys["bias"] = outside[1]
    wrapped = collectives.data_parallel(model)  # a temporary would take its hooks with it before backward
    z_audio, z_text = wrapped(mine.pop("audio"), mine.pop("text"))
    value = two_tower_loss(z_audio, z_text, **mine, temperature=(-scale).exp(), tile=3, **keys)
    torch.autograd.backward(value)
    collectives.average_gradients(outside)
    return value.detach(), [p.grad for p in (*model.parameters(), *outside) if p.grad is not None]


def error(got: list[Tensor], expected: list[Tensor]) -> float:
    """The worst tensor's, so that a small gradient such as the temperature's is not lost among the others."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True))


SETTINGS: dict[str, Keys] = {
    "default": {},
    "ignored": {"same_text": "ignored"},
    "own": {"scope": "own", "audio_share": 0.3},
    "sharp": {"scale": 5.8},
    "sigmoid": {"pairs": "sigmoid"},
}


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_learn_what_one_process_learns(ranks: Ranks, name: str, world_size: int, exchange: str) -> None:
    expected, gradients = learn(SETTINGS[name])
    results = ranks(world_size, learn, SETTINGS[name] | {"exchange": exchange})
    for value, got in results:
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert error(got, gradients) < 1e-12
    assert len({value.item() for value, _ in results}) == 1, "the same bits on every rank"


def bytes_sent(exchange: Any) -> tuple[int, int]:
    batch = own_part(global_batch())
    z_audio, z_text = (batch.pop(name)[:, :4].float().contiguous().requires_grad_() for name in ("audio", "text"))
    with collectives.counted() as forward:
        loss = two_tower_loss(z_audio, z_text, **batch, exchange=exchange)
    with collectives.counted() as backward:
        torch.autograd.grad(loss, (z_audio, z_text))
    return forward.total, backward.total


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_bytes_sent_are_the_formula(ranks: Ranks, world_size: int, exchange: str) -> None:
    """Around the ring vectors of texts never travel; their numbers, 17 bytes each, do."""
    n, m, width, slots = AUDIO // world_size, TEXTS // world_size, 4, _slots()
    numbers, header = 17 * m, 8 * 9 + 16
    tags = math.ceil(TAGS / 8)
    audio = n * (4 * width + 4 * (1 + slots) + tags)
    if exchange == "gather":
        text = m * (4 * width + 4 * 2 + tags)
        expected = numbers + header + audio + text + 12 * (n + m)
    else:
        sums, scalars, gradient = n * 4 * 8, n * 12, n * 4 * width
        expected = numbers + header + audio + sums + audio + scalars + gradient
    for forward, backward in ranks(world_size, bytes_sent, exchange):
        assert forward == expected * (world_size - 1)
        assert backward == 0


def _slots() -> int:
    """Most different true texts of one clip."""
    batch = global_batch()
    true = batch["present"] & ~batch["hard"]
    clips, hashes = batch["clip_text"][true].tolist(), batch["text_hash"][true].tolist()
    return max(len({h for c, h in zip(clips, hashes, strict=True) if c == clip}) for clip in clips)


def refusal(audio_by_rank: list[int], texts_by_rank: list[int], exchange: Any) -> str:
    audio, texts = audio_by_rank[collectives.rank()], texts_by_rank[collectives.rank()]
    try:
        two_tower_loss(
            torch.ones(audio, 3), torch.ones(texts, 3), torch.arange(audio), torch.arange(texts), exchange=exchange
        )
    except ValueError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_unequal_rows_are_refused_on_every_rank(ranks: Ranks, exchange: str) -> None:
    messages = ranks(2, refusal, [4, 4], [8, 6], exchange, timeout_s=20.0)
    names = "audio rows, texts, width, tags, hashes"
    shape = f"every rank must bring the same shape ({names}): rank {{}} has {{}}, rank {{}} has {{}}"
    assert messages[0] == shape.format(0, (4, 8, 3, 0, 0), 1, (4, 6, 3, 0, 0))
    assert messages[1] == shape.format(1, (4, 6, 3, 0, 0), 0, (4, 8, 3, 0, 0))


def one_rank_errs() -> str:
    clip = torch.arange(4 if collectives.rank() != 1 else 3)
    try:
        two_tower_loss(torch.ones(4, 3), torch.ones(4, 3), clip, torch.arange(4))
    except ValueError as error:
        return str(error)
    return "accepted"


def test_what_one_rank_refuses_all_refuse(ranks: Ranks) -> None:
    messages = ranks(3, one_rank_errs, timeout_s=20.0)
    assert messages[0] == messages[2] == "rank 1 refused its rows; its own message names the reason"
    assert messages[1].startswith("clip_audio must be int64 of shape (4,)")


def nan_on_rank_one(settings: Keys) -> Tensor:
    batch = own_part(global_batch())
    z_audio, z_text = batch.pop("audio")[:, :4].clone(), batch.pop("text")
    if collectives.rank() == 1:
        z_audio[2, 0] = math.nan
    return two_tower_loss(z_audio, z_text, **batch, **settings)


@pytest.mark.parametrize("settings", [{}, {"exchange": "ring"}, {"pairs": "sigmoid"}, {"temperature": 0.002}])
def test_a_nan_row_makes_the_loss_nan_on_every_rank(ranks: Ranks, settings: Keys) -> None:
    assert all(loss.isnan() for loss in ranks(2, nan_on_rank_one, settings))
