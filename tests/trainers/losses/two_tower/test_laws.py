"""Laws of the two-tower loss, and faults of its peers that it does not have: open_clip, SigLIP copies, TTMR."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from counterpoint import two_tower_loss
from data_shards.format.records import TextRows
from tests.trainers.losses.two_tower.test_loss import make_case, relations
from trainers.losses.config import LossConfig
from trainers.losses.music_text import MusicTextLoss
from trainers.losses.projected import LossResult, Projected
from trainers.losses.two_tower.loss import compare_towers
from trainers.losses.two_tower.rows import TowerRows
from trainers.losses.two_tower.settings import TowerSettings, start_of_bias

Keys = dict[str, Any]


def rows(seed: int = 0, *, clips: int = 9, width: int = 5, hard: int = 0, tags: int = 0) -> Keys:
    """One text a clip and ``hard`` swapped ones of the first clips, in float64."""
    g = torch.Generator().manual_seed(seed)
    clip = torch.randperm(1000, generator=g)[:clips]
    made: Keys = {
        "z_audio": torch.randn(clips, width, generator=g, dtype=torch.float64),
        "z_text": torch.randn(clips + hard, width, generator=g, dtype=torch.float64),
        "clip_audio": clip,
        "clip_text": torch.cat([clip, clip[:hard]]),
        "hard": torch.arange(clips + hard) >= clips,
        "text_hash": torch.randint(0, 2**62, (clips + hard,), generator=g),
    }
    if tags:
        made["tags_audio"] = torch.rand(clips, tags, generator=g) < 0.5
        made["tags_text"] = torch.ones(clips + hard, tags, dtype=torch.bool)
    return made


def gradients(given: Keys, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and the gradients of both towers."""
    z = [given[name].clone().requires_grad_() for name in ("z_audio", "z_text")]
    loss = two_tower_loss(**(given | {"z_audio": z[0], "z_text": z[1]}), **settings)
    audio, text = torch.autograd.grad(loss, z)
    return loss.detach(), audio, text


def clip_formula(given: Keys, tau: float) -> Tensor:
    """As published (arXiv:2103.00020, Figure 3)."""
    audio, text = (functional.normalize(given[name], dim=1) for name in ("z_audio", "z_text"))
    logits, target = audio @ text.T / tau, torch.arange(len(audio))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@pytest.mark.parametrize("tau", [0.07, 0.0101, 1.0])
def test_without_hard_rows_and_with_unique_clips_it_is_the_loss_of_clip(tau: float) -> None:
    given = rows()
    assert two_tower_loss(**given, temperature=tau).item() == pytest.approx(clip_formula(given, tau).item(), rel=1e-13)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_exchanging_towers_and_shares_changes_nothing(share: float) -> None:
    given = rows()
    turned = {
        "z_audio": given["z_text"],
        "z_text": given["z_audio"],
        "clip_audio": given["clip_text"],
        "clip_text": given["clip_audio"],
    }
    loss, audio, text = gradients(given, audio_share=share)
    other, text_again, audio_again = gradients(turned, audio_share=1 - share)
    assert loss.item() == pytest.approx(other.item(), rel=1e-13)
    torch.testing.assert_close((audio, text), (audio_again, text_again), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("settings", [{}, {"pairs": "sigmoid", "bias": -1.0}, {"same_text": "ignored", "scope": "own"}])
def test_a_permutation_of_rows_changes_nothing(settings: Keys) -> None:
    given = rows(hard=4, tags=3)
    given["text_hash"][3] = given["text_hash"][1]
    i, j = (torch.randperm(size, generator=torch.Generator().manual_seed(8)) for size in (9, 13))
    moved = {name: part[i] if "audio" in name else part[j] for name, part in given.items()}
    loss, audio, text = gradients(given, **settings, tile=4)
    other, audio_moved, text_moved = gradients(moved, **settings, tile=4)
    assert loss.item() == pytest.approx(other.item(), rel=1e-13)
    torch.testing.assert_close((audio[i], text[j]), (audio_moved, text_moved), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("settings", [{}, {"pairs": "sigmoid"}, {"same_text": "ignored"}])
@pytest.mark.parametrize("content", [0.0, 1e30, math.nan])
def test_an_absent_row_changes_nothing_whatever_it_holds(settings: Keys, content: float) -> None:
    given = rows(hard=3, tags=3)
    loss, audio, text = gradients(given, **settings)
    more = {"z_text": torch.full((2, 5), content, dtype=torch.float64), "tags_text": torch.zeros(2, 3) > 0}
    more |= {"clip_text": given["clip_audio"][:2], "hard": torch.tensor([False, True])}
    more |= {"text_hash": given["text_hash"][4:6]}
    padded = given | {name: torch.cat([given[name], part]) for name, part in more.items()}
    padded["present"] = torch.arange(14) < 12
    other, audio_again, text_again = gradients(padded, **settings)
    assert loss.item() == other.item()
    torch.testing.assert_close((audio, text), (audio_again, text_again[:12]), rtol=1e-12, atol=1e-16)
    assert not text_again[12:].any()


def parts(given: Keys, **settings: Any) -> tuple[float, float]:
    """The audio side and the text side."""
    found = compare_towers(TowerRows(**given), 0.3, TowerSettings(**settings))
    return found.audio_part.item(), found.text_part.item()


def test_hard_rows_never_change_the_text_side() -> None:
    without, given = rows(), rows(hard=5)
    given = given | {"z_text": torch.cat([without["z_text"], given["z_text"][9:]]), "z_audio": without["z_audio"]}
    (audio, text), (more_audio, same_text) = parts(without), parts(given)
    assert same_text == pytest.approx(text, rel=1e-14)
    assert more_audio > audio


def test_with_scope_own_a_hard_row_changes_the_term_of_its_own_clip_alone() -> None:
    given = rows(hard=1)
    z = given["z_audio"].clone().requires_grad_()
    moved = given["z_text"].clone()
    moved[9] = -moved[9]
    terms = []
    for z_text in (given["z_text"], moved):
        loss = two_tower_loss(**(given | {"z_audio": z, "z_text": z_text}), scope="own", audio_share=1.0)
        terms.append(torch.autograd.grad(loss, z)[0])
    changed = (terms[0] != terms[1]).any(1)
    assert changed.tolist() == [True, *[False] * 8]
    everywhere = [gradients(given | {"z_text": z_text}, audio_share=1.0)[1] for z_text in (given["z_text"], moved)]
    assert (everywhere[0] != everywhere[1]).any(1).all(), "with scope all it changes every clip's"


@pytest.mark.parametrize("scope", ["all", "own"])
@pytest.mark.parametrize("pairs", ["softmax", "sigmoid"])
def test_more_hard_rows_never_lower_the_loss(scope: Any, pairs: Any) -> None:
    given = rows(hard=9)
    bias = -2.0 if pairs == "sigmoid" else None
    found = []
    for hard in range(10):
        some = {name: part[: 9 + hard] if "audio" not in name else part for name, part in given.items()}
        found.append(two_tower_loss(**some, scope=scope, pairs=pairs, bias=bias).item())
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize("pairs", ["softmax", "sigmoid"])
def test_a_hard_row_that_says_what_a_text_of_its_clip_says_has_no_gradient(pairs: Any) -> None:
    given = rows(hard=1)
    given["text_hash"][9] = given["text_hash"][0]
    loss, _, text = gradients(given, scope="own", pairs=pairs, bias=-1.0 if pairs == "sigmoid" else None)
    assert not text[9].any()
    without = {name: part[:9] for name, part in given.items()}
    bias = -1.0 if pairs == "sigmoid" else None
    assert loss.item() == pytest.approx(two_tower_loss(**without, pairs=pairs, bias=bias).item(), rel=1e-13)


def test_a_hard_row_whose_tags_all_hold_for_a_clip_is_no_negative_of_that_clip() -> None:
    given = rows(hard=1, tags=3)
    given["tags_text"][9] = torch.tensor([True, True, False])
    given["tags_audio"][:] = False
    given["tags_audio"][:4, :2] = True  # of four clips all it says is true, of the others half of it
    given["tags_audio"][4:, 0] = True
    z = given["z_audio"].clone().requires_grad_()
    moved = given["z_text"].clone()
    moved[9] = -moved[9]
    terms = [
        torch.autograd.grad(two_tower_loss(**(given | {"z_audio": z, "z_text": t}), audio_share=1.0), z)[0]
        for t in (given["z_text"], moved)
    ]
    assert (terms[0] != terms[1]).any(1).tolist() == [False] * 4 + [True] * 5


@pytest.mark.parametrize("same_text", ["positive", "ignored", "negative"])
def test_two_clips_with_equal_texts(same_text: Any) -> None:
    given = rows()
    given["text_hash"][1] = given["text_hash"][0]
    apart = two_tower_loss(**(given | {"text_hash": torch.arange(9)}))
    together = two_tower_loss(**given, same_text=same_text)
    if same_text == "negative":
        assert together.item() == apart.item()
    elif same_text == "ignored":
        assert together < apart, "fewer negatives"
    else:
        joined = {name: given[name].clone() for name in ("clip_audio", "clip_text")}
        for ids in joined.values():
            ids[1] = ids[0]
        assert together.item() == pytest.approx(two_tower_loss(**(given | joined)).item(), rel=1e-13)


@pytest.mark.parametrize("tile", [1, 2, 5, 64])
def test_tiles_change_nothing_for_the_sigmoid_either(tile: int) -> None:
    given = rows(hard=4, tags=3)
    whole, *expected = gradients(given, pairs="sigmoid", bias=-3.0, tile=512)
    value, *found = gradients(given, pairs="sigmoid", bias=-3.0, tile=tile)
    assert value.item() == pytest.approx(whole.item(), rel=1e-13)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-15)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Records the most numbers that any tensor of a computation holds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                self.numbers = max(self.numbers, made.numel())
        return out


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.011}, {"pairs": "sigmoid"}, {"scope": "own"}])
def test_no_tensor_grows_faster_than_the_rows(settings: Keys) -> None:
    """A matrix of 600 × 700 would have 420,000 numbers; the largest is a table of rows."""
    given = {n: p.float() if p.is_floating_point() else p for n, p in rows(clips=600, hard=100, tags=4).items()}
    with Largest() as largest:
        gradients(given, **settings, tile=32)
    assert largest.numbers <= 700 * max(5, 6)


def test_a_zero_row_has_no_gradient_and_others_are_finite() -> None:
    given = rows(hard=2)
    given["z_audio"][3], given["z_text"][5], given["z_text"][10] = 0.0, 0.0, 0.0
    loss, audio, text = gradients(given)
    assert loss.isfinite()
    assert not audio[3].any()
    assert not text[[5, 10]].any()
    assert audio.isfinite().all()
    assert text.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.011}, {"pairs": "sigmoid"}])
@pytest.mark.parametrize("place", [("z_audio", 2), ("z_text", 2), ("z_text", 10)])
def test_a_nan_row_makes_the_loss_nan(settings: Keys, place: tuple[str, int]) -> None:
    given = rows(hard=2)
    given = {name: part.float() if part.is_floating_point() else part for name, part in given.items()}
    given[place[0]][place[1], 1] = math.nan
    assert two_tower_loss(**given, **settings).isnan()


def test_a_batch_without_texts_is_zero_with_no_gradient() -> None:
    given = rows() | {"present": torch.zeros(9, dtype=torch.bool)}
    loss, audio, text = gradients(given)
    assert loss.item() == 0
    assert not audio.any()
    assert not text.any()


@pytest.mark.parametrize("settings", [{}, {"pairs": "sigmoid", "bias": -4.0}])
@pytest.mark.parametrize("scale", [50.0, 100.0])
def test_a_sharp_scale_is_exact_in_float32(scale: float, settings: Keys) -> None:
    """Above 1/τ = 40 float32 needs the running maximum: exp(100) is no float32. (A copy of the decoupled loss in
    musiclm-pytorch raises exponentials without one.)
    """
    given = rows(clips=40, width=6, hard=10)
    half = {name: part.float() if part.is_floating_point() else part for name, part in given.items()}
    exact = {name: part.double() if part.is_floating_point() else part for name, part in half.items()}
    expected = gradients(exact, temperature=1 / scale, **settings)
    got = gradients(half, temperature=1 / scale, tile=16, **settings)
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 3e-5


def test_rows_that_lie_far_apart_in_their_best_scores_are_exact_too() -> None:
    """One row matches perfectly and one not at all: their exponents differ by 200, and no common one serves both."""
    audio = torch.tensor([[1.0, 0.0], [-1.0, 1e-3], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [1.0, -1e-3]])
    given = {"z_audio": audio, "z_text": text, "clip_audio": torch.arange(3), "clip_text": torch.arange(3)}
    exact = {name: part.double() if part.is_floating_point() else part for name, part in given.items()}
    for a, b in zip(gradients(given, temperature=0.01), gradients(exact, temperature=0.01), strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("same_text", ["positive", "ignored"])
def test_recall_in_the_batch_is_that_of_a_loop_over_pairs(seed: int, same_text: Any) -> None:
    """It stands beside the loss in every step's metrics: a loss that falls while recall falls to zero (open_clip #742)
    is seen at once.
    """
    case = make_case(seed, same_text=same_text)
    weight, allowed = relations(case)
    true = case.numbers["present"] & ~case.numbers["hard"]
    audio, text = (functional.normalize(case.z[name], dim=1) for name in ("z_audio", "z_text"))
    s = (audio @ text.T).masked_fill(~true, -math.inf).masked_fill(allowed == 0, -math.inf)
    found = compare_towers(
        TowerRows(case.z["z_audio"], case.z["z_text"], **case.numbers),
        0.3,
        TowerSettings(same_text=same_text, tile=4),
        with_metrics=True,
    ).metrics
    for name, side, positive in (
        ("recall_audio_to_text", s, weight > 0),
        ("recall_text_to_audio", s.T[true], (weight > 0).T[true]),
    ):
        asked = positive.any(1)
        best = side.masked_fill(~positive, -math.inf).amax(1)
        others = side.masked_fill(positive, -math.inf).amax(1)
        assert found[name].item() == pytest.approx((best > others)[asked].double().mean().item())


# Faults of the peers.


def test_every_kind_of_loss_runs_in_one_process_without_a_group() -> None:
    """LAION's weighted loss reads features of all ranks that one process never gathers: NameError."""
    given = rows(hard=3, tags=3)
    for pairs in ("softmax", "sigmoid"):
        for exchange in ("gather", "ring"):
            for scope in ("all", "own"):
                settings: Keys = {"pairs": pairs, "exchange": exchange, "scope": scope}
                assert two_tower_loss(**given, **settings).isfinite()


def test_the_temperature_s_gradient_has_the_weight_of_the_towers() -> None:
    """open_clip without gather-with-grad: encoders get 1/W of their gradient and the temperature all of it."""
    given = rows()
    z = given["z_audio"].clone().requires_grad_()
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss = two_tower_loss(**(given | {"z_audio": z}), temperature=tau)
    (ours,) = torch.autograd.grad(loss, tau)
    step = 1e-6
    higher, lower = (two_tower_loss(**given, temperature=0.2 + sign * step).item() for sign in (1, -1))
    assert ours.item() == pytest.approx((higher - lower) / (2 * step), rel=1e-7)


def loss_module(**settings: Any) -> MusicTextLoss:
    config = LossConfig(**{"objective": "music_text", "learnable": True, "temperature": 0.011, **settings})
    return MusicTextLoss(config, scope="all", num_texts=96)


def test_the_scale_is_clamped_after_the_update_and_comes_back_when_the_gradient_says_so() -> None:
    """TTMR clamps inside forward: above 100 the gradient of its scale is 0 for good."""
    module = loss_module()
    parameter = module.log_temperature
    assert parameter is not None
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    given = rows(clips=4, width=4)
    right = given | {"z_text": given["z_audio"]}
    wrong = given | {"z_text": -given["z_audio"]}
    scales = []
    for batch in [right] * 3 + [wrong] * 3:
        optimizer.zero_grad()
        tau = module.temperature
        assert isinstance(tau, Tensor)
        loss = two_tower_loss(**batch, temperature=tau) * 1e3
        torch.autograd.backward(loss)
        assert parameter.grad is not None
        assert parameter.grad != 0 or batch is right
        parameter.grad.clamp_(-0.3, 0.3)
        if batch is right:
            parameter.grad.fill_(0.3)  # a scale that wants to grow
        optimizer.step()
        module.after_update()
        scales.append(1 / module.temperature.item())  # type: ignore[union-attr]
    assert max(scales) <= 100 * (1 + 1e-6)
    assert scales[2] == pytest.approx(100)
    assert scales[5] < 50


def forward_of(module: MusicTextLoss, given: Keys) -> LossResult:
    """The objective of a batch with one text a clip."""
    clips = len(given["clip_audio"])
    nothing = torch.zeros(clips, 1, dtype=torch.bool)
    texts = TextRows(("a",) * clips, (), nothing, nothing, given["text_hash"])
    z_ND = torch.cat([given["z_audio"], given["z_text"]])
    found: LossResult = module(Projected(z_ND=z_ND, clip_id_N=given["clip_audio"], texts=texts))
    return found


def test_a_scale_above_the_clamp_is_the_loss_s_own_and_has_a_gradient() -> None:
    """The objective clamps nothing: a resumed or own start above the largest scale comes back by its gradient."""
    module = loss_module()
    assert module.log_temperature is not None
    torch.nn.init.constant_(module.log_temperature, -math.log(250))
    given = rows(clips=4, width=4)
    found = forward_of(module, given | {"z_text": -given["z_audio"]})
    assert found.metrics["scale"].item() == pytest.approx(250)
    (gradient,) = torch.autograd.grad(found.loss, [module.log_temperature])
    assert gradient < 0, "the temperature grows"


def test_the_loss_adds_the_bias_that_is_learned() -> None:
    module = loss_module(pairs="sigmoid", temperature=0.07)
    assert module.bias is not None
    torch.nn.init.constant_(module.bias, -1.0)
    given, step = rows(), 1e-6
    found = forward_of(module, given)
    values = [two_tower_loss(**given, pairs="sigmoid", bias=-1.0 + add).item() for add in (0, step, -step)]
    assert found.loss.item() == pytest.approx(values[0], rel=1e-6)
    assert found.metrics["bias"] == -1
    (gradient,) = torch.autograd.grad(found.loss, [module.bias])
    assert gradient.item() == pytest.approx((values[1] - values[2]) / (2 * step), rel=1e-5)


def test_a_softmax_loss_has_no_bias_that_ddp_would_wait_for() -> None:
    """open_clip: the unused logit_bias of a SigLIP model breaks DDP under InfoNCE."""
    assert [name for name, _ in loss_module().named_parameters()] == ["log_temperature"]
    assert [name for name, _ in loss_module(pairs="sigmoid").named_parameters()] == ["log_temperature", "bias"]


def test_the_sigmoid_loss_is_a_sum_over_pairs_divided_by_rows() -> None:
    """A copy of SigLIP takes the mean over pairs: 1/N too small."""
    given = rows()
    audio, text = (functional.normalize(given[name], dim=1) for name in ("z_audio", "z_text"))
    sign = 2 * torch.eye(9, dtype=torch.float64) - 1
    expected = -functional.logsigmoid(sign * (audio @ text.T / 0.07 - 1.0)).sum() / 9
    assert two_tower_loss(**given, pairs="sigmoid", bias=-1.0).item() == pytest.approx(expected.item(), rel=1e-13)


def test_the_bias_starts_where_positives_and_negatives_weigh_the_same() -> None:
    assert start_of_bias(96) == pytest.approx(-math.log(95))
    module = loss_module(pairs="sigmoid")
    assert module.bias is not None
    assert module.bias.item() == pytest.approx(-4.554, abs=1e-3)
    given = rows()
    without = two_tower_loss(**given, pairs="sigmoid").item()
    assert without == pytest.approx(two_tower_loss(**given, pairs="sigmoid", bias=-math.log(8)).item(), rel=1e-12)


BAD: dict[str, tuple[Keys, str]] = {
    "width": ({"z_text": torch.ones(9, 4)}, "both towers must have one width, got 5 and 4"),
    "dtype": ({"z_text": torch.ones(9, 5)}, "both towers must have one dtype"),
    "half": ({"z_audio": torch.ones(9, 5).half()}, r"z_audio must be float32 or float64, .*call z_audio.float\(\)"),
    "empty": ({"z_text": torch.ones(0, 5)}, "z_text must be .rows, width., neither of them 0"),
    "clips": ({"clip_text": torch.arange(8)}, r"clip_text must be int64 of shape \(9,\)"),
    "hard": ({"hard": torch.zeros(9)}, r"hard must be bool of shape \(9,\)"),
    "hash": ({"text_hash": torch.zeros(9)}, r"text_hash must be int64 of shape \(9,\)"),
    "one_tags": ({"tags_audio": torch.zeros(9, 3) > 0}, "tags_audio and tags_text go together"),
    "tags": (
        {"tags_audio": torch.zeros(9, 3) > 0, "tags_text": torch.zeros(9, 4) > 0},
        "must have the same tags, got 3 and 4",
    ),
    "temperature": ({"temperature": 0.0}, "temperature must be > 0, got 0"),
    "pairs": ({"pairs": "hinge"}, "pairs must be one of softmax, sigmoid, got 'hinge'"),
    "scope": ({"scope": "some"}, "scope must be one of all, own"),
    "share": ({"audio_share": 1.5}, "audio_share must be from 0 to 1, got 1.5"),
    "sigmoid_share": ({"pairs": "sigmoid", "audio_share": 0.3}, "audio_share is a setting of pairs=softmax"),
    "bias": ({"bias": 1.0}, "bias is a setting of pairs=sigmoid; leave it out for softmax"),
    "tile": ({"tile": 0}, "tile must be >= 1, got 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        two_tower_loss(**(rows() | change))
