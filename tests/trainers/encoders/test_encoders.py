import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from cluster.settings import UserError, load_config
from trainers.config import ExperimentConfig
from trainers.distributed.batch_norm import Kind, SyncBatchNorm, convert_batch_norm
from trainers.encoders.config import FRONTENDS, EncoderConfig
from trainers.encoders.cpu_layers import convolve, linear_relu, norm_relu_pool, rising
from trainers.encoders.encoder import Encoder
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.nfnet import DEPTHS, SlowFastNfnet
from trainers.encoders.normalizer_free import (
    ALPHA,
    BlockShape,
    NormalizerFreeBlock,
    StandardConv2d,
    activate,
    uniform,
    view_keys,
)
from trainers.encoders.sample_cnn import SampleCnn
from trainers.encoders.tune_plus import TunePlus
from trainers.model import ENCODERS, build_encoder

SMALL = 48
"""Channels of the smallest NFNet: a thirtieth of F0's parameters."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


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
    assert num_parameters(SampleCnn()) == 2_368_512


def normed(kind: Kind | None, seed: int = 0) -> SampleCnn:
    """Scales of both signs; ``None`` keeps torch's BatchNorm and with it the layers as they are written out."""
    torch.manual_seed(seed)
    model = SampleCnn()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            nn.init.normal_(p, mean=0.3 if name.endswith("weight") else 0.0)
    return model if kind is None else convert_batch_norm(model, kind)  # type: ignore[return-value]  # the same model


def assert_same_step(plain: nn.Module, fast: nn.Module, x: Tensor) -> None:
    """Output, gradient of every parameter and running statistics of both; a gradient to the digit but at near ties."""
    found, expected = fast(x), plain(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    above = noise(*expected.shape, seed=5)
    torch.autograd.backward([(found * above).sum(), (expected * above).sum()])
    for (name, p), q in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        if name == "0.bias":
            assert not p.grad.any()  # BatchNorm takes a convolution's bias away again
        else:
            assert (p.grad - q.grad).norm() < 1e-3 * q.grad.norm(), name
    for (name, moved), buffer in zip(fast.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(moved, buffer, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["sync", "micro"])
@pytest.mark.parametrize("samples", [6561, 6563])
def test_sample_cnn_s_stem_is_its_plain_layers(samples: int, kind: Kind) -> None:
    # A wave with an offset and a trend: neighbouring samples are far from independent.
    wave = 0.2 + noise(3, 1, samples).cumsum(2) / 50
    assert_same_step(normed(None).stem, normed(kind).stem, wave)


@pytest.mark.parametrize(("place", "frames"), [(0, 243), (0, 2500), (2, 245), (8, 3)])
def test_sample_cnn_s_blocks_are_their_plain_layers(place: int, frames: int) -> None:
    plain, fast = normed(None).blocks[place], normed("sync").blocks[place]
    assert isinstance(plain[0], nn.Conv1d)  # type: ignore[index]  # a Sequential
    assert_same_step(plain, fast, noise(3, plain[0].in_channels, frames))  # type: ignore[index]


def test_sample_cnn_as_a_whole_is_its_plain_layers_and_its_snapshots_are_theirs() -> None:
    plain, fast, wave = normed(None), normed("sync"), noise(2, 59_535)
    fast.load_state_dict(plain.state_dict())
    with torch.no_grad():
        wholes = [model.blocks(model.stem(wave[:, None])) for model in (fast, plain)]
        torch.testing.assert_close(*wholes, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fast.eval()(wave), plain.eval()(wave), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frames", [9, 11, 3 * 243 + 4])
def test_norm_relu_pool_has_the_value_and_gradient_of_its_three_layers(frames: int) -> None:
    norm = nn.BatchNorm1d(5)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    y, sign = noise(4, 5, frames).requires_grad_(), rising(norm.weight)
    above = noise(4, 5, frames // 3, seed=3)
    expected = nn.functional.max_pool1d(nn.functional.relu(norm(y)), 3)
    wanted = torch.autograd.grad(expected, [y, norm.weight, norm.bias], above)
    turned = (y * sign[:, None]).mT.contiguous()
    z, mean, variance = norm_relu_pool(turned, norm.weight * sign, norm.bias, SyncBatchNorm(5))
    torch.testing.assert_close(z.mT, expected)
    torch.testing.assert_close(mean * sign, y.mean((0, 2)))
    torch.testing.assert_close(variance, y.var((0, 2)))
    found = torch.autograd.grad(z, [y, norm.weight, norm.bias], above.mT, retain_graph=True)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    # Backward wrote over what it read: a second one is an error, never a wrong number.
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(z, [y], above.mT)


def test_equal_frames_hand_the_gradient_to_the_first() -> None:
    y = torch.tensor([[[2.0], [2.0], [2.0], [0.0], [5.0], [5.0]]]).requires_grad_()
    z, _, _ = norm_relu_pool(y.clone(), torch.ones(1), torch.ones(1), SyncBatchNorm(1))
    plain = nn.functional.batch_norm(y.mT, None, None, training=True).add(1).relu()
    above = torch.tensor([[[1.0], [3.0]]])
    found = torch.autograd.grad(z, y, above)[0]
    expected = torch.autograd.grad(nn.functional.max_pool1d(plain, 3), y, above.mT)[0]
    torch.testing.assert_close(found, expected)


def test_convolution_and_product_have_the_gradients_of_torch_s() -> None:
    x, kernel, bias = noise(2, 11, 4).requires_grad_(), noise(6, 4, 3, seed=1).requires_grad_(), noise(6, seed=2)
    above = noise(2, 11, 6, seed=3)
    plain = nn.functional.conv1d(x.mT, kernel, bias, padding=1).mT
    found, expected = convolve(x, kernel, bias), plain
    torch.testing.assert_close(found, expected)
    for got, want in zip(
        torch.autograd.grad(found, [x, kernel], above), torch.autograd.grad(expected, [x, kernel], above), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    rows, matrix = noise(2, 800, 4), noise(4, 6).requires_grad_()
    upper = noise(2, 800, 6, seed=3)
    values = linear_relu(rows, matrix), (rows @ matrix).relu()
    torch.testing.assert_close(*values)
    gradients = [torch.autograd.grad(value, matrix, upper)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_sample_cnn_under_bfloat16_keeps_bfloat16_and_is_close() -> None:
    model, wave = normed("sync"), noise(3, 1, 6561)
    expected = model.blocks[0](model.stem(wave))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.blocks[0](model.stem(wave))
    assert half.dtype == torch.bfloat16
    above = noise(*half.shape, seed=1)
    parameters = [*model.stem.parameters(), *model.blocks[0].parameters()]
    gradients = [torch.autograd.grad((out.float() * above).sum(), parameters) for out in (half, expected)]
    assert nn.functional.cosine_similarity(half.float(), expected).min() > 0.99
    for got, want in zip(*gradients, strict=True):
        assert got.dtype == torch.float32
        assert not want.any() or nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("encoder", [SampleCnn, TunePlus])
def test_a_view_too_short_is_refused(encoder: type[Encoder]) -> None:
    with pytest.raises(ValueError, match="59049"):
        encoder()(torch.zeros(1, 59_048))


def test_tune_plus_has_the_parameters_of_the_paper() -> None:
    # The released network counts a classification layer of 512 weights and a bias, which no embedding uses.
    assert num_parameters(TunePlus()) + 512 + 1 == 2_220_903


@pytest.mark.parametrize(("samples", "bottom"), [(59_535, 735), (59_049, 729)])
def test_tune_plus_goes_down_up_and_down_again(samples: int, bottom: int) -> None:
    down = [bottom * 3**power for power in (4, 3, 2, 1, 0)]
    channels = [11, 22, 44, 88, 176]
    model = TunePlus().eval()
    with torch.no_grad():
        found = [tuple(part.shape[1:]) for part in model.frames(torch.zeros(1, samples))]
    there = list(zip(channels, down, strict=True))
    tail = [(width, bottom // 3**step) for step, width in enumerate((352, 352, 352, 352, 512), start=1)]
    assert down[0] == samples
    assert found == there + there[-2::-1] + there[1:] + tail
    assert found[-1] == (512, 3)


def test_tune_plus_is_the_network_written_out() -> None:
    torch.manual_seed(0)
    model, pool = TunePlus().eval(), nn.MaxPool1d(3)
    down, up, again, tail = model.down, model.up, model.again, model.tail

    def rise(step: int, below: Tensor, skip: Tensor) -> Tensor:
        whole: Tensor = up[step].get_submodule("block")(torch.cat([up[step].get_submodule("rise")(below), skip], 1))
        return whole

    with torch.no_grad():
        d1 = down[0](noise(1, 1, 59_049))
        d2 = down[1](pool(d1))
        d3 = down[2](pool(d2))
        d4 = down[3](pool(d3))
        bottom = down[4](pool(d4))
        u4 = rise(0, bottom, d4)
        u3 = rise(1, u4, d3)
        u2 = rise(2, u3, d2)
        u1 = rise(3, u2, d1)
        t2 = again[0](torch.cat([pool(u1), u2], 1))
        t3 = again[1](torch.cat([pool(t2), u3], 1))
        t4 = again[2](torch.cat([pool(t3), u4], 1))
        t5 = again[3](torch.cat([pool(t4), bottom], 1))
        for block in tail:
            t5 = block(pool(t5))
        expected = nn.functional.avg_pool1d(t5, 3)[..., 0]
        torch.testing.assert_close(model(noise(1, 1, 59_049)[:, 0]), expected)


def test_tune_plus_averages_its_last_frames_and_reads_whole_blocks_of_81_samples() -> None:
    model, wave = TunePlus().eval(), noise(1, 59_535 + 80)
    with torch.no_grad():
        torch.testing.assert_close(model(wave), model.frames(wave[:, :59_535])[-1].mean(2))


def test_mel_cnn_is_512_wide_and_keeps_no_place_in_time() -> None:
    model = MelCnn().eval()
    assert model.width == 512
    mel = torch.rand(2, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        here, there = model(mel), model(mel.roll(64, dims=2))
    assert here.shape == (2, 512)
    # A shift by whole pooled frames moves nothing but the two edges.
    assert torch.nn.functional.cosine_similarity(here, there).min() > 0.98


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mel_cnn_s_pool_and_relu_commute_to_the_last_bit_of_value_and_gradient(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = MelCnn(4).to(memory_format=layout)
    other = copy.deepcopy(model)
    for block in other.blocks:
        assert isinstance(block, nn.Sequential)
        block[2], block[3] = block[3], block[2]
        assert isinstance(block[2], nn.ReLU)
    mel = noise(3, 64, 33)
    mel[0], mel[1, :, 9:] = 0, 0  # silence: all numbers of a square are equal
    found, expected = model(mel), other(mel)
    assert torch.equal(found, expected)
    above = noise(*expected.shape, seed=1)
    torch.autograd.backward([(found * above).sum(), (expected * above).sum()])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)


@pytest.fixture(scope="module")
def f0() -> SlowFastNfnet:
    """The full network, on no device: 240 MB of weights are not needed to count them."""
    with torch.device("meta"):
        return SlowFastNfnet().eval()


def nfnet(channels: int = SMALL, drop: float = 0.1, skip_gain: float = 1.0) -> SlowFastNfnet:
    """With its residual branches open; at the start they are shut (skip-init)."""
    torch.manual_seed(0)
    model = SlowFastNfnet(channels, drop)
    for block in blocks(model):
        nn.init.constant_(block.skip_gain, skip_gain)
    return model


def blocks(model: nn.Module) -> list[NormalizerFreeBlock]:
    return [module for module in model.modules() if isinstance(module, NormalizerFreeBlock)]


def test_nfnet_f0_is_1728_wide_at_mule_s_slices(f0: SlowFastNfnet) -> None:
    mel = torch.empty(3, 96, 300, device="meta")
    assert f0.width == 1728
    assert f0(mel).shape == (3, 1728)


def test_nfnet_f0_has_the_parameters_of_its_published_shape(f0: SlowFastNfnet) -> None:
    def conv(inside: int, outside: int, taps: int, groups: int = 1) -> int:
        return inside // groups * outside * taps + 2 * outside  # weights, gains, biases

    def path(width: int, stem_taps: list[int], stage_taps: list[int], joined: list[int]) -> int:
        stem = [1, width // 16, width // 8, width // 4, width // 2]
        total = sum(conv(a, b, taps) for (a, b), taps in zip(pairwise(stem), stem_taps, strict=True))
        before = stem[-1]
        for times, depth, taps, extra in zip((1, 2, 6, 6), (1, 2, 6, 3), stage_taps, joined, strict=True):
            outside, middle, groups = width * times, width * times // 2, times
            inside = [before + extra] + [outside] * (depth - 1)
            total += conv(inside[0], outside, 1)  # the shortcut
            for come in inside:
                total += conv(come, middle, 1) + conv(middle, middle, taps, groups) + conv(middle, middle, 3, groups)
                total += conv(middle, outside, 1) + 2 * outside * middle + middle + outside + 1
            before = outside
        return total + conv(before, before, 1)

    fused = [64, 256, 512, 1024]
    slow = path(256, [3, 3, 3, 9], [1, 1, 3, 3], fused)
    fast = path(32, [9, 3, 3, 9], [3, 3, 3, 3], [0] * 4)
    fusion = sum(conv(inside, outside, 7) for inside, outside in zip((16, 32, 64, 192), fused, strict=True))
    assert num_parameters(f0) == slow + fast + fusion == 60_571_038


def test_stages_halve_frequency_and_never_time() -> None:
    model, found = nfnet().eval(), []
    for stage in model.stages:
        stage.register_forward_hook(lambda _m, _i, out: found.append((out[0].shape[2:], out[1].shape[2:])))
    with torch.no_grad():
        model(noise(1, 96, 300))
    assert found == [((bands, 19), (bands, 75)) for bands in (24, 12, 6, 3)]


@pytest.mark.parametrize("shape", [(96, 300), (96, 301), (64, 135), (65, 17), (40, 1)])
def test_nfnet_reads_slices_of_any_size(shape: tuple[int, int]) -> None:
    with torch.no_grad():
        assert nfnet().eval()(noise(2, *shape)).shape == (2, 324)


def test_the_scaled_activation_keeps_unit_variance() -> None:
    assert activate(noise(1_000_000)).var().item() == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (3, 3)])
def test_a_standardised_convolution_keeps_variance_and_drops_the_mean(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = StandardConv2d(64, 256, kernel, groups=2)
    nn.init.normal_(layer.weight, mean=2, std=5)  # whatever the weights are
    with torch.no_grad():
        out = layer(3 + noise(4, 64, 24, 24))[:, :, 1:-1, 1:-1]
    assert out.var((0, 2, 3)).mean().item() == pytest.approx(1, abs=0.03)
    assert out.mean().abs().item() < 0.02


def test_every_block_adds_alpha_squared_to_the_variance() -> None:
    # Signal propagation: 1, then 1 + k·α² after k blocks, for each sees its input scaled back to variance 1.
    torch.manual_seed(0)
    x, variance = noise(8, 256, 8, 16), 1.0
    for _ in range(6):
        shape = BlockShape(inside=256, outside=256, group=64, kernel=(1, 3), beta=variance**-0.5, drop=0)
        block = NormalizerFreeBlock(shape)
        nn.init.ones_(block.skip_gain)
        with torch.no_grad():
            x = block(x)
        variance += ALPHA**2
        assert x.var((0, 2, 3)).mean().item() == pytest.approx(variance, rel=0.05)


def test_a_change_of_shape_sets_the_variance_back() -> None:
    torch.manual_seed(0)
    block = NormalizerFreeBlock(BlockShape(inside=128, outside=256, group=64, kernel=(1, 3), beta=0.5, drop=0))
    nn.init.ones_(block.skip_gain)
    with torch.no_grad():
        out = block(2 * noise(8, 128, 8, 16))
    assert out.var((0, 2, 3)).mean().item() == pytest.approx(1 + ALPHA**2, rel=0.25)  # GELU is not homogeneous


def test_variance_stays_near_its_analytic_value_through_the_whole_network() -> None:
    # The pooled shortcut halves the variance of white noise, as published; here it takes every second band instead.
    model = nfnet(128).eval()
    found: list[tuple[float, float]] = []

    def look(_stage: nn.Module, _inputs: object, out: tuple[Tensor, Tensor]) -> None:
        slow, fast = (part.var((0, 2, 3)).mean().item() for part in out)
        found.append((slow, fast))

    for stage in model.stages:
        for block in blocks(stage):
            block.pool = nn.MaxPool2d(1, block.shape.stride)  # type: ignore[assignment]  # takes one band of two
        stage.register_forward_hook(look)
    with torch.no_grad():
        model(noise(4, 96, 300))
    z = noise(200_000)
    for (slow, fast), depth, share in zip(found, DEPTHS, (1 / 3, 1 / 2, 1 / 2, 0.4), strict=True):
        # What the fast path hands over is activated twice: its share of the channels brings more variance.
        start = (1 - share) + share * activate(activate(z)).var().item()
        assert 0.5 < fast / (1 + depth * ALPHA**2) < 2
        assert 0.5 < slow / (start + depth * ALPHA**2) < 2


def test_a_fresh_block_is_its_shortcut() -> None:
    x = noise(2, 64, 6, 10)
    block = NormalizerFreeBlock(BlockShape(inside=64, outside=64, group=32, kernel=(1, 3), beta=1.0, drop=0))
    with torch.no_grad():
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", [*ENCODERS])
def test_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    encoder = nfnet(drop=0) if name == "nfnet" else ENCODERS[name]()
    shape = (2, 96, 64) if "mel" in FRONTENDS[name] else (2, 59_049)
    encoder(noise(*shape)).pow(2).sum().backward()
    still = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before BatchNorm moves nothing, by construction.
    before_norm = {key for key in still if name in ("sample_cnn", "tune_plus") and key.endswith("bias")}
    assert set(still) <= before_norm


@pytest.mark.parametrize("training", [False, True])
def test_a_row_of_an_nfnet_does_not_depend_on_the_others(training: bool) -> None:
    model, mel = nfnet(drop=0.5).train(training), noise(5, 48, 48)
    with torch.no_grad():
        together, alone = model(mel), torch.cat([model(row[None]) for row in mel])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_training_is_evaluation_up_to_stochastic_depth() -> None:
    mel = noise(6, 48, 48)
    with torch.no_grad():
        calm, wild = nfnet(drop=0), nfnet(drop=0.5)
        assert torch.equal(calm.train()(mel), calm.eval()(mel))
        assert torch.equal(wild.eval()(mel), calm.eval()(mel))
        assert not torch.allclose(wild.train()(mel), wild.eval()(mel))


def test_stochastic_depth_draws_from_the_view_and_from_no_generator() -> None:
    model, mel = nfnet(drop=0.5).train(), noise(6, 48, 48)
    with torch.no_grad():
        torch.manual_seed(1)
        first = model(mel)
        state = torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(first, model(mel))
    assert torch.equal(state, torch.manual_seed(1).get_state())


def test_stochastic_depth_leaves_out_as_many_branches_as_it_says() -> None:
    keys_KN = view_keys(noise(4000, 8, 8), 24)
    dropped_KN = uniform(keys_KN) < 0.1
    assert dropped_KN.float().mean().item() == pytest.approx(0.1, abs=0.004)
    # No block and no view decides for another.
    together = torch.corrcoef(dropped_KN.float()) - torch.eye(24)
    assert together.abs().max().item() < 0.08


@pytest.mark.parametrize("channels", [32, 72])
def test_channels_that_an_nfnet_cannot_have_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16, at least 48"):
        SlowFastNfnet(channels)
    with pytest.raises(UserError, match="multiple of 16, at least 48"):
        load_config(
            ExperimentConfig, None, ["encoder.name=nfnet", "frontend.kind=mule", f"encoder.channels={channels}"]
        )


@pytest.mark.parametrize("name", [*ENCODERS])
def test_every_encoder_is_built_from_configuration(name: str) -> None:
    config = load_config(ExperimentConfig, None, [f"encoder.name={name}", f"frontend.kind={FRONTENDS[name][0]}"])
    with torch.device("meta"):
        assert isinstance(build_encoder(config.encoder), ENCODERS[name])


def test_channels_choose_the_size() -> None:
    assert build_encoder(EncoderConfig(name="mel_cnn", channels=4)).width == 128
    assert build_encoder(EncoderConfig(name="nfnet", channels=48)).width == 324


def test_an_encoder_and_a_front_end_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"mel_cnn reads mel, mule, nnaudio_mel.*, frontend.kind is wave; set frontend.kind=mel"
    ):
        load_config(ExperimentConfig, None, ["encoder.name=mel_cnn"])
    with pytest.raises(UserError, match=r"nfnet reads mule, mel, .*, frontend.kind is wave; set frontend.kind=mule"):
        load_config(ExperimentConfig, None, ["encoder.name=nfnet"])
    with pytest.raises(UserError, match="channels is a setting of mel_cnn and nfnet; leave it out for sample_cnn"):
        load_config(ExperimentConfig, None, ["encoder.channels=8"])
