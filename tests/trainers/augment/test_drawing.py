"""Draws: keyed by slot alone, at the rates and in the ranges of Table 1."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor

from trainers.augment.chain import AugmentChain
from trainers.augment.drawing import DB_PER_OCTAVE, ViewParameters, join, rational_ratios
from trainers.augment.parameters import PRESETS, AugmentConfig

RATE = 22_050
MANY = 40_000


def equal(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_number_of_ranks_changes_no_draw(world: int) -> None:
    chain, slots = AugmentChain(PRESETS["paper"], RATE), torch.arange(24)
    whole = chain.draw(slots, step=7, seed=3, view=1)
    for rank in range(world):
        assert equal(chain.draw(slots[rank::world], step=7, seed=3, view=1), whole.rows(slice(rank, None, world)))


def test_step_seed_slot_and_view_each_change_every_draw() -> None:
    chain = AugmentChain(PRESETS["paper"], RATE)
    rows = [
        chain.draw(torch.tensor([slot]), step=step, seed=seed, view=view)
        for slot, step, seed, view in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    ]
    assert len(set(join(rows).noise_seed.tolist())) == 5


def test_one_effects_probability_moves_no_other_draw() -> None:
    slots = torch.arange(100)
    config = AugmentConfig()
    before = AugmentChain(config, RATE).draw(slots, step=0, seed=0, view=0)
    silenced = replace(config, gain=replace(config.gain, p=0.0), filter=replace(config.filter, p=0.0))
    after = AugmentChain(silenced, RATE).draw(slots, step=0, seed=0, view=0)
    for name in ("snr_db", "noise_slope", "noise_seed", "pitch_ratio", "delay", "reflections", "wet"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_rates_and_distributions_are_those_of_table_1() -> None:
    drawn = AugmentChain(AugmentConfig(), RATE).draw(torch.arange(MANY), step=0, seed=0, view=0)
    rate = {name: float(mask.float().mean()) for name, mask in drawn.received.items()}
    close = 4 * sqrt(0.25 / MANY)
    assert rate["noise"] == pytest.approx(0.6, abs=close)
    assert rate["filter"] == pytest.approx(0.3, abs=close)
    assert rate["pitch"] == pytest.approx(0.6, abs=close)
    assert rate["delay"] == pytest.approx(0.6, abs=close)
    assert rate["stretch"] == 0
    assert float((drawn.gain < 0).float().mean()) == pytest.approx(0.6, abs=close)
    assert float((drawn.gain.abs() != 1).float().mean()) == pytest.approx(0.4, abs=close)

    def uniform(values: Tensor, low: float, high: float) -> None:
        u = ((values.double() - low) / (high - low)).sort().values
        distance = (u - (torch.arange(len(u)) + 0.5) / len(u)).abs().max()
        assert u[0] >= -1e-6
        assert u[-1] <= 1 + 1e-6
        assert distance < 1.95 / sqrt(len(u))  # Kolmogorov, 0.1%

    gain_db = 20 * drawn.gain.abs().log10()
    uniform(gain_db[drawn.gain.abs() != 1], -15, 5)
    uniform(drawn.snr_db[drawn.snr_db < torch.inf], 3, 30)
    uniform(drawn.noise_slope * DB_PER_OCTAVE, -2, 2)
    uniform(12 * drawn.pitch_ratio[drawn.pitch_ratio != 1].log2(), -4, 4)
    uniform(drawn.delay, 0.1 * RATE, 0.5 * RATE)
    uniform(20 * drawn.attenuation.log10(), -6, -3)
    uniform(drawn.wet, 0.25, 1)
    counts = torch.bincount(drawn.reflections, minlength=4)[1:] / (drawn.reflections > 0).sum()
    assert torch.allclose(counts, torch.full((3,), 1 / 3), atol=0.02)

    kinds = torch.bincount(drawn.filter_kind, minlength=5)[1:] / (drawn.filter_kind > 0).sum()
    assert torch.allclose(kinds, torch.full((4,), 0.25), atol=0.02)

    def mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz.double() / 700)

    for kind, low, high in ((1, 150.0, 7000.0), (2, 200.0, 2400.0)):
        uniform(mel(drawn.low_hz[drawn.filter_kind == kind]), *mel(torch.tensor([low, high])).tolist())
    for kind in (3, 4):
        low_hz, high_hz = (edge[drawn.filter_kind == kind].double() for edge in (drawn.low_hz, drawn.high_hz))
        centre = (low_hz + high_hz) / 2
        uniform(mel(centre), *mel(torch.tensor([200.0, 4000.0])).tolist())
        uniform((high_hz - low_hz) / centre, 0.5, 2)


def test_cutoffs_stay_below_the_cap() -> None:
    config = AugmentConfig()
    low = replace(config.filter.low_pass, max_cutoff_freq=20_000.0)
    drawn = AugmentChain(replace(config, filter=replace(config.filter, low_pass=low)), 16_000).draw(
        torch.arange(2000), step=0, seed=0, view=0
    )
    assert drawn.low_hz[drawn.filter_kind == 1].max() <= 0.45 * 16_000


class TestAsReleased:
    def draw(self, view: int = 0) -> ViewParameters:
        return AugmentChain(PRESETS["as_released"], RATE).draw(torch.arange(4000), step=0, seed=0, view=view)

    def test_one_coin_decides_for_both_views_of_a_clip(self) -> None:
        untouched = [~torch.stack(list(self.draw(view).received.values())).any(0) for view in (0, 1)]
        # By its own coins alone a row stays untouched with probability .6·.4·.4·.7·.4·.4 = 1%.
        assert float((untouched[0] & untouched[1]).float().mean()) == pytest.approx(0.2, abs=0.03)

    def test_views_share_the_kind_of_filter(self) -> None:
        one, two = (self.draw(view).filter_kind for view in (0, 1))
        both = (one > 0) & (two > 0)
        assert both.any()
        assert torch.equal(one[both], two[both])

    def test_pitch_has_fourteen_ratios_and_never_a_whole_semitone(self) -> None:
        ratio = torch.tensor(sorted(set(self.draw().pitch_ratio.tolist()) - {1.0}))
        semitones = 12 * ratio.log2()
        assert len(semitones) == 14
        assert float(semitones.abs().max()) == pytest.approx(3.16, abs=0.005)
        assert float((semitones - semitones.round()).abs().min()) > 0.01

    def test_ratios_are_those_of_torch_pitch_shift(self) -> None:
        library = pytest.importorskip("torch_pitch_shift", reason="optional extra bench")
        low, high = 2 ** (-4 / 12), 2 ** (4 / 12)
        theirs = library.get_fast_shifts(RATE, lambda x: low <= x <= high and x != 1)
        assert rational_ratios(RATE, low, high) == sorted(theirs)

    def test_delay_takes_ends_only(self) -> None:
        drawn = self.draw()
        assert set(drawn.reflections.tolist()) == {0, 1, 3}
        assert sorted({round(value, 4) for value in drawn.attenuation.tolist()}) == [0.3, 0.7]
        assert sorted({round(value, 4) for value in drawn.wet.tolist()}) == [0.3, 0.7]
        assert sorted(set(drawn.delay.tolist())) == [round(0.1 * RATE), round(0.5 * RATE)]
