"""Any encoder by name: a snapshot, or what a user's ``module:factory`` returns, held to the same protocol.

A factory is called without arguments and returns an object with ``width``, ``rate`` (Hz), ``samples`` (of a chunk) and
a call (N, samples) float32 in [-1, 1] → (N, width). Its cache name is its own ``hash``, or that of its weights and of
its module's source. A factory that takes ``untrained`` gives the untrained baseline too. With a method
``embed_text(texts)`` and a space `JOINT` it is asked by text as well, like two towers that were trained here.

Shape suffixes: N chunks, T samples, E encoder width, k texts, d width of the space that texts share.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cluster.entry_points import failures_named, import_factory, is_entry_point
from cluster.settings import UserError
from evaluation.config import WorkersConfig
from evaluation.encoders.devices import check_device
from evaluation.encoders.encoder import ENCODER, Encoder, check_spaces, spaces_of, with_heads
from evaluation.encoders.pool import Pool, open_pool
from trainers.inference.spaces import JOINT, TOWERS

SOURCE = "encoder"
"""What messages call the argument that names an encoder."""
NEEDED = ("width", "rate", "samples")
UNTRAINED_SEED = 0
"""Of the first weights of ``factory(untrained=True)``: the same at every call, so its embeddings are kept."""
_PROBES = ("a slow piece", "🎹 静かな曲")


class UserEncoder(nn.Module):
    """A user's encoder, frozen."""

    def __init__(self, inner: Any, *, hash: str, provenance: dict[str, Any]) -> None:
        super().__init__()
        self.inner = inner
        self.width, self.rate, self.samples = (int(getattr(inner, name)) for name in NEEDED)
        self.spaces: dict[str, slice] = spaces_of(inner)
        self.hash = hash
        self.provenance = provenance
        if isinstance(inner, nn.Module):
            inner.requires_grad_(False)

    @torch.no_grad()
    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed mono audio (N, ``samples``) at ``rate`` Hz; evaluation mode whatever was done to the module before."""
        if isinstance(self.inner, nn.Module):
            self.inner.eval()
        h_NE = self.inner(wave_NT)
        if not isinstance(h_NE, Tensor):
            raise UserError(f"{self.provenance['source']}: its call gave {type(h_NE).__name__}, not a torch tensor")
        return h_NE


class UserTowers(UserEncoder):
    """A user's encoder with a text tower: what texts share with its audio is brought to unit norm."""

    def forward(self, wave_NT: Tensor) -> Tensor:
        """As `UserEncoder.forward`, the columns of `JOINT` unit vectors of every chunk."""
        h_NE, place = super().forward(wave_NT).clone(), self.spaces[JOINT]
        h_NE[:, place] = F.normalize(h_NE[:, place], dim=1)
        return h_NE

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str], /) -> Tensor:
        """Texts to unit vectors (k, d) of the space `JOINT`."""
        if isinstance(self.inner, nn.Module):
            self.inner.eval()
        text_kd = self.inner.embed_text(list(texts))
        wanted = (len(texts), self.spaces[JOINT].stop - self.spaces[JOINT].start)
        if not isinstance(text_kd, Tensor) or text_kd.shape != wanted:
            got = f"shape {tuple(text_kd.shape)}" if isinstance(text_kd, Tensor) else f"a {type(text_kd).__name__}"
            raise UserError(f"{self.provenance['source']}: its embed_text gave {got}, not {wanted}")
        return F.normalize(text_kd.float(), dim=1)


def is_factory(source: Path | str) -> bool:
    """Whether an argument means ``module:factory``; whatever exists on disk does not.

    >>> is_factory("my_module:factory"), is_factory("outputs/run"), is_factory("s3://bucket/run")
    (True, False, False)
    """
    return is_entry_point(str(source)) and not Path(source).exists()


def load_any(
    source: Path | str, device: str = "cpu", *, trust_code: bool = False, texts: bool = False, or_audio: bool = False
) -> Any:
    """The frozen encoder of a snapshot, or of a user's ``module:factory``.

    Args:
        source: a step-N folder, the link last, a run's folder, the name of a model that ships, or ``module:factory``;
            the module may lie in the working directory.
        device: torch device it shall run on.
        trust_code: import the user's own code that a snapshot names.
        texts: with its text tower, where it has one.
        or_audio: without it where the package of its text encoder is not installed: nothing will ask it by text.

    Raises:
        UserError: names what is missing.
    """
    from trainers.text.files import NoTextPackageError

    try:
        if texts and (towers := _two_towers(source, device, untrained=False, trust_code=trust_code)) is not None:
            return towers
    except NoTextPackageError:
        if not or_audio:
            raise
    if not is_factory(source):
        from trainers.inference.frozen import load_encoder

        return load_encoder(source, device, trust_code=trust_code)
    return _checked(str(source), import_factory(str(source), SOURCE), {}).to(device)


def untrained_any(
    source: Path | str, device: str = "cpu", *, trust_code: bool = False, texts: bool = False
) -> Any | None:
    """The same network with its first weights, or None where a user's factory cannot make it."""
    if texts and (towers := _two_towers(source, device, untrained=True, trust_code=trust_code)) is not None:
        return towers
    if not is_factory(source):
        from trainers.inference.frozen import untrained_encoder

        return untrained_encoder(source, device, trust_code=trust_code)
    factory = import_factory(str(source), SOURCE)
    if "untrained" not in inspect.signature(factory).parameters:
        return None
    return _checked(str(source), factory, {"untrained": True}).to(device)


def _two_towers(source: Path | str, device: str, *, untrained: bool, trust_code: bool) -> Any | None:
    from trainers.state.places import ABOUT, locate
    from trainers.state.snapshot import open_snapshot

    if is_factory(source):
        return None
    place = locate(source)
    if (place / ABOUT).is_file():
        if not (place / TOWERS).is_file():
            return None
    elif open_snapshot(source).config.get("loss", {}).get("objective") != "music_text":
        return None
    from trainers.inference.two_towers import load_two_towers

    return load_two_towers(source, device, untrained=untrained, trust_code=trust_code)


@contextmanager
def open_encoder(
    source: Path | str | Encoder | Pool,
    *,
    workers: int = 0,
    device: str | None = None,
    trust_code: bool = False,
    heads: bool = False,
    texts: bool = False,
) -> Iterator[Pool]:
    """A pool of one encoder, called `ENCODER`, in this process or in Ray workers, which end with the block.

    Args:
        source: as of `load_any`, or an encoder, or a pool that is used as it is.
        workers: Ray workers; 0 is this process.
        device: of this process's encoder; the CPU by default.
        trust_code: import the user's own code that a snapshot names.
        heads: of LOEV the outputs of its heads as well, and of two towers the space that texts share, as further
            spaces; a pool has what it was made with.
        texts: of two towers the text tower is needed; else it is left out where its package is not installed.

    Raises:
        UserError: names what is missing, or a device beside workers.
    """
    if isinstance(source, Pool):
        yield source
        return
    if workers and device is not None:
        raise UserError("device is of this process; workers take a GPU each where there are enough: give one of them")
    check_device(device or "cpu")
    encoder: Any = source
    if isinstance(source, Path | str):
        encoder = load_any(source, device or "cpu", trust_code=trust_code, texts=heads, or_audio=not texts)
    encoder = with_heads(encoder) if heads else encoder
    with open_pool({ENCODER: encoder}, WorkersConfig(num_workers=workers)) as pool:
        yield pool


def _checked(source: str, factory: Callable[..., Any], options: dict[str, Any]) -> UserEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        with failures_named(f"{source}: the factory failed"):
            inner = factory(**options)
    with failures_named(f"{source}: its {', '.join(NEEDED)} failed"):
        given = {name: getattr(inner, name) for name in NEEDED if hasattr(inner, name)}
    missing = [name for name in NEEDED if name not in given] + ["a call"] * (not callable(inner))
    if missing:
        raise UserError(
            f"{source}: the factory gave a {type(inner).__name__} without {', '.join(missing)}; an encoder has width, "
            "rate in Hz, samples of a chunk, and a call (N, samples) → (N, width)"
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise UserError(f"{source}: {name} must be a whole number > 0, got {value!r}")
    check_spaces(inner, source)
    provenance = {"source": source, "class": type(inner).__qualname__, **options}
    make = UserTowers if _has_text_tower(source, inner) else UserEncoder
    encoder = make(inner, hash=_hash(source, inner), provenance=provenance)
    _try(source, encoder)
    return encoder


def _has_text_tower(source: str, inner: Any) -> bool:
    embeds, joint = callable(getattr(inner, "embed_text", None)), JOINT in spaces_of(inner)
    if embeds != joint:
        has, lacks = ("a method embed_text", f"no space {JOINT}") if embeds else (f"a space {JOINT}", "no embed_text")
        raise UserError(
            f"{source}: it has {has} and {lacks}; texts need both: embed_text(texts) -> (k, d), and spaces with "
            f"{JOINT}, the d columns of the embedding that they are compared with"
        )
    return embeds


def _hash(source: str, inner: Any) -> str:
    own = getattr(inner, "hash", None)
    if isinstance(own, str) and own:
        return own
    weights = inner.state_dict() if isinstance(inner, nn.Module) else {}
    if not weights:
        raise UserError(
            f"{source}: a {type(inner).__name__} without weights needs a hash, a text that changes with what it "
            "computes: embeddings are kept under it"
        )
    digest = hashlib.sha256(source.encode())
    module = sys.modules[source.partition(":")[0]]
    if module.__file__:
        digest.update(Path(module.__file__).read_bytes())
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _try(source: str, encoder: UserEncoder) -> None:
    """Two chunks of quiet noise before a catalogue is read."""
    shape = f"(2, {encoder.samples}) float32"
    with failures_named(f"{source}: its call failed on {shape}"):
        wave_NT = 0.01 * torch.randn(2, encoder.samples, generator=torch.Generator().manual_seed(0))
        given = wave_NT.clone()
        h_NE = encoder(given)
        again_NE = encoder(wave_NT.clone())
    if h_NE.shape != (2, encoder.width):
        raise UserError(f"{source}: its call gave {tuple(h_NE.shape)}, its width is (2, {encoder.width})")
    if not torch.isfinite(h_NE).all():
        raise UserError(f"{source}: its embedding of quiet noise is not finite")
    if not torch.equal(given, wave_NT):
        raise UserError(f"{source}: its call changes its waves in place; work on a copy")
    if not torch.allclose(h_NE.float(), again_NE.float(), rtol=1e-3, atol=1e-3 * float(h_NE.abs().max())):
        raise UserError(
            f"{source}: two calls with the same waves differ, so it draws at random, but embeddings are kept and "
            "compared; take that out, or seed it in the call"
        )
    if isinstance(encoder, UserTowers):
        _try_texts(source, encoder)


def _try_texts(source: str, encoder: UserTowers) -> None:
    with failures_named(f"{source}: its embed_text failed on two texts"):
        text_kd = encoder.embed_text(_PROBES)
    if not torch.isfinite(text_kd).all():
        raise UserError(f"{source}: its embed_text gave vectors that are not finite")
