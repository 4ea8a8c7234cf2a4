from itertools import pairwise

import pytest
import torch

from cluster.settings import UserError, load_config
from trainers.config import ExperimentConfig
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.sample_cnn import SampleCnn


def lengths(model: SampleCnn, samples: int) -> list[int]:
    found: list[int] = []
    x = model.stem(torch.zeros(1, 1, samples))
    found.append(x.shape[2])
    for block in model.blocks:
        x = block(x)
        found.append(x.shape[2])
    return found


@pytest.mark.parametrize("samples", [59_049, 59_535])
def test_sample_cnn_brings_a_view_down_to_one_frame_of_512(samples: int) -> None:
    model = SampleCnn().eval()
    with torch.no_grad():
        found = lengths(model, samples)
        assert model(torch.zeros(2, samples)).shape == (2, 512)
    assert found[0] == samples // 3
    assert all(after == before // 3 for before, after in pairwise(found))
    assert found[-1] == 1


def test_sample_cnn_has_the_parameters_of_the_paper() -> None:
    assert sum(p.numel() for p in SampleCnn().parameters()) == 2_368_512


def test_a_view_too_short_for_sample_cnn_is_refused() -> None:
    with pytest.raises(ValueError, match="59049"):
        SampleCnn()(torch.zeros(1, 59_048))


def test_mel_cnn_is_512_wide_and_keeps_no_place_in_time() -> None:
    model = MelCnn().eval()
    assert model.width == 512
    mel = torch.rand(2, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        here, there = model(mel), model(mel.roll(64, dims=2))
    assert here.shape == (2, 512)
    # A shift by whole pooled frames moves nothing but the two edges.
    assert torch.nn.functional.cosine_similarity(here, there).min() > 0.98


def test_an_encoder_and_a_front_end_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"mel_cnn reads mel, frontend.kind is wave; set frontend.kind=mel"):
        load_config(ExperimentConfig, None, ["encoder.name=mel_cnn"])
    with pytest.raises(UserError, match="channels is a setting of mel_cnn"):
        load_config(ExperimentConfig, None, ["encoder.channels=8"])
