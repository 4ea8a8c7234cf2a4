"""Without an operator of oneDNN, or with one that computes something else, embeddings are those of plain layers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from trainers.encoders.encoder import Encoder
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.tune_plus import TunePlus
from trainers.inference.cpu import fused_conv, mel_cnn
from trainers.inference.cpu.build import fold_encoder

WAYS = {TunePlus: fused_conv.has_operators, MelCnn: mel_cnn.has_operators}
OPERATORS = [
    (TunePlus, torch.ops.mkldnn, "_convolution_pointwise"),
    (TunePlus, torch.ops.mkldnn, "_convolution_pointwise_"),
    (TunePlus, torch.ops.mkldnn, "_reorder_convolution_weight"),
    (MelCnn, torch._C._nn, "mkldnn_reorder_conv2d_weight"),
    (MelCnn, torch, "mkldnn_convolution"),
    (MelCnn, torch, "mkldnn_max_pool2d"),
]
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="torch was built without oneDNN",
)


@pytest.fixture(autouse=True)
def looked_up_again() -> Iterator[None]:
    for usable in WAYS.values():
        usable.cache_clear()
    yield
    for usable in WAYS.values():
        usable.cache_clear()


def assert_folds(kind: type[Encoder]) -> None:
    torch.manual_seed(0)
    encoder = kind().eval()
    views = torch.rand(2, 59_049) if kind is TunePlus else torch.rand(2, 64, 40)
    with torch.inference_mode():
        folded, expected = fold_encoder(encoder), encoder(views)
        assert folded is not None
        torch.testing.assert_close(folded(views), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@needs_onednn
@pytest.mark.parametrize("kind", WAYS)
def test_the_operators_are_used_whatever_torchs_defaults_are(kind: type[Encoder]) -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            assert WAYS[kind]()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(("kind", "owner", "name"), OPERATORS)
def test_a_torch_without_an_operator_computes_the_same_by_plain_layers(
    kind: type[Encoder], owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, None, raising=False)
    assert not WAYS[kind]()
    assert_folds(kind)


@pytest.mark.parametrize("kind", WAYS)
def test_a_torch_built_without_onednn_computes_the_same_by_plain_layers(
    kind: type[Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not WAYS[kind]()
    assert_folds(kind)


@needs_onednn
def test_an_operator_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = torch.mkldnn_max_pool2d
    monkeypatch.setattr(torch, "mkldnn_max_pool2d", lambda x, *sizes: pool(x.relu(), *sizes).mul_(1.01))
    assert not mel_cnn.has_operators()
    assert_folds(MelCnn)
