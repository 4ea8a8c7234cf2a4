"""Configuration: names, presets, round trip, refusals, severity."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import Config, UserError, load_config, to_tree, validate
from trainers.augment.effects import BandConfig, CutoffConfig, DelayConfig, GainConfig, NoiseConfig, StretchConfig
from trainers.augment.parameters import EFFECTS, PRESETS, AugmentConfig


@dataclass(frozen=True, kw_only=True)
class Root(Config):
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def test_the_defaults_are_table_1() -> None:
    config = AugmentConfig()
    assert (config.gain.p, config.gain.min_gain_in_db, config.gain.max_gain_in_db) == (0.4, -15, 5)
    assert config.polarity.p == 0.6
    assert (config.noise.p, config.noise.min_snr_in_db, config.noise.max_snr_in_db) == (0.6, 3, 30)
    assert (config.noise.min_f_decay, config.noise.max_f_decay) == (-2, 2)
    assert config.filter.p == 0.3
    assert config.filter.low_pass == CutoffConfig(min_cutoff_freq=150, max_cutoff_freq=7000)
    assert config.filter.high_pass == CutoffConfig(min_cutoff_freq=200, max_cutoff_freq=2400)
    assert asdict(config.filter.band_cut) == asdict(config.filter.band_pass)
    assert list(asdict(config.filter.band_pass).values()) == [200, 4000, 0.5, 2]
    assert (config.pitch.p, config.pitch.min_transpose_semitones, config.pitch.max_transpose_semitones) == (0.6, -4, 4)
    assert config.stretch.p == 0
    delay = config.delay
    assert (delay.p, delay.min_delay_ms, delay.max_delay_ms) == (0.6, 100, 500)
    assert (delay.min_reflections, delay.max_reflections) == (1, 3)
    assert (delay.min_attenuation_in_db, delay.max_attenuation_in_db, delay.min_wet, delay.max_wet) == (-6, -3, 0.25, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_through_a_plain_dict_unchanged(name: str) -> None:
    chosen = load_config(Root, None, [f"augment.preset={name}"])
    assert chosen.augment == PRESETS[name]
    assert validate(Root, to_tree(chosen), "again") == chosen


def test_what_stands_beside_a_preset_differs_from_it() -> None:
    config = load_config(Root, None, ["augment.preset=none", "augment.pitch.p=0.6", "augment.noise.min_snr_in_db=1"])
    assert config.augment == replace(
        PRESETS["none"],
        pitch=replace(PRESETS["none"].pitch, p=0.6),
        noise=replace(PRESETS["none"].noise, min_snr_in_db=1.0),
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.preset=papre", "no preset 'papre'.*try paper"),
        ("augment.pitch.prob=1", "unknown key augment.pitch.prob; did you mean augment.pitch.p"),
        ("augment.pitch.p=1.5", r"pitch.p must be in \[0, 1\], got 1.5"),
        ("augment.noise.max_snr_in_db=2", "min_snr_in_db must be <= max_snr_in_db, got 3.0 > 2"),
        ('augment.order=["noise","filter","pitch"]', "order must be a permutation of noise, filter, pitch, delay"),
    ],
)
def test_a_wrong_key_or_value_is_a_named_error(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Root, None, [override])


def test_the_order_can_be_chosen() -> None:
    config = load_config(Root, None, ['augment.order=["delay","pitch","filter","noise"]'])
    assert config.augment.order == ("delay", "pitch", "filter", "noise")


@pytest.mark.parametrize(
    ("build", "values"),
    [
        (GainConfig, {"min_gain_in_db": 6.0}),
        (NoiseConfig, {"min_f_decay": 3.0}),
        (BandConfig, {"max_bandwidth_fraction": 2.5}),
        (BandConfig, {"min_center_frequency": 0.0}),
        (StretchConfig, {"min_rate": 0.0}),
        (DelayConfig, {"max_attenuation_in_db": 1.0}),
        (DelayConfig, {"min_reflections": 0}),
    ],
)
def test_a_contradiction_is_refused_where_it_is_written(build: Any, values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        build(**values)


def test_severity_two_is_the_configuration_and_zero_draws_nothing() -> None:
    for config in PRESETS.values():
        assert config.scaled(2) == config
        assert all(getattr(config.scaled(0), effect).p == 0 for effect in EFFECTS)


def test_severity_moves_each_range_as_section_5_3_says() -> None:
    mild, strong = AugmentConfig().scaled(1), AugmentConfig().scaled(4)
    assert (mild.noise.p, strong.noise.p, strong.filter.p) == (0.3, 1.0, 0.6)
    assert (strong.gain.min_gain_in_db, strong.gain.max_gain_in_db) == (-30, 10)
    assert (strong.noise.min_snr_in_db, strong.noise.max_snr_in_db, strong.noise.max_f_decay) == (1.5, 15, 4)
    assert strong.filter.low_pass == CutoffConfig(min_cutoff_freq=75, max_cutoff_freq=3500)
    assert AugmentConfig().scaled(8).filter.low_pass.min_cutoff_freq == 75
    assert strong.filter.high_pass == CutoffConfig(min_cutoff_freq=400, max_cutoff_freq=4800)
    assert (strong.filter.band_cut.max_center_frequency, strong.filter.band_cut.min_bandwidth_fraction) == (8000, 1)
    assert AugmentConfig().scaled(10).filter.band_cut.min_bandwidth_fraction == 1.99
    assert (strong.pitch.min_transpose_semitones, strong.pitch.max_transpose_semitones) == (-8, 8)
    assert strong.stretch.min_rate == pytest.approx(0.4)
    assert strong.stretch.max_rate == pytest.approx(1.6)
    assert (strong.delay.min_delay_ms, strong.delay.max_delay_ms) == (50, 500)
    assert (strong.delay.min_reflections, strong.delay.max_reflections, mild.delay.max_reflections) == (2, 6, 2)
    assert (strong.delay.min_attenuation_in_db, strong.delay.min_wet) == (-3, 0.5)
    with pytest.raises(ValueError, match="severity must be >= 0, got -1"):
        AugmentConfig().scaled(-1)


@given(severity=st.floats(0.01, 12), name=st.sampled_from(sorted(PRESETS)))
def test_every_severity_leaves_a_valid_configuration(severity: float, name: str) -> None:
    config = PRESETS[name].scaled(severity)  # ranges are checked on construction
    assert all(0 <= getattr(config, effect).p <= 1 for effect in EFFECTS)
