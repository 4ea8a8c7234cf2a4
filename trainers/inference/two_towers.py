"""Two pretrained towers for inference: audio and texts in, unit vectors of one space out, no trainable weight.

    >>> from trainers.inference.two_towers import load_two_towers    # doctest: +SKIP
    >>> towers = load_two_towers("outputs/music_text")               # doctest: +SKIP
    >>> towers.embed_audio(wave_NT) @ towers.embed_text(["a slow waltz"]).T    # doctest: +SKIP

As an encoder it has two spaces: the audio tower's embedding, and behind it the projection that texts share. A long file
is the mean of its chunks' unit projections, brought to unit norm: the projection of the mean is another function.

Shape suffixes: N clips or chunks, T samples, E encoder width, d width of the joint space, k texts.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cluster.machine.resources import torch_device
from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.inference.frozen import FrozenEncoder, does_not_fit, open_encoder
from trainers.inference.spaces import JOINT, WHOLE, no_text_tower
from trainers.two_tower import PREFIX, TowerProjector, build_towers

TEXTS_AT_ONCE = 256


class TwoTowers(nn.Module):
    """Both encoders and both projections in evaluation mode.

    Args:
        config: of the run.
        state: weights of the snapshot by name, or None for the first weights of ``config.seed``.
        hash: name of these weights in caches and reports.
        provenance: plain JSON types.
    """

    def __init__(
        self, config: ExperimentConfig, state: dict[str, Tensor] | None, *, hash: str, provenance: dict[str, Any]
    ) -> None:
        super().__init__()
        # A cache of text vectors is of the machine that trained.
        projector = build_towers(replace(config, text=replace(config.text, cache=None))).projector
        assert isinstance(projector, TowerProjector)
        audio: dict[str, Tensor] | None = None
        if state is not None:
            projector.load_state_dict({n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)})
            audio = projector.encoder.state_dict()
        self.audio = FrozenEncoder(config, audio, hash=hash, provenance=provenance)
        self.text = projector.text
        self.audio_projection, self.text_projection = projector.audio_projection, projector.text_projection
        *_, last = self.text_projection
        assert isinstance(last, nn.Linear)
        inside, joint = self.audio.width, last.out_features
        self.width = inside + joint
        self.spaces = {WHOLE: slice(0, inside), JOINT: slice(inside, inside + joint)}
        self.rate, self.samples, self.cpu_rows = self.audio.rate, self.audio.samples, self.audio.cpu_rows
        self.hash, self.provenance = hash, provenance
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "TwoTowers":
        """Refuses training mode."""
        if mode:
            raise RuntimeError("frozen towers stay in evaluation mode")
        return self

    @torch.inference_mode()
    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embeddings of mono audio and their unit projections side by side, see `spaces`.

        From float32 waves (N, ``samples``) at ``rate`` Hz in [-1, 1] to (N, ``width``) = (N, E + d), float32.
        """
        h_NE = self.audio(wave_NT)
        return torch.cat([h_NE, F.normalize(self.audio_projection(h_NE), dim=1)], 1)

    def embed_audio(self, wave_NT: Tensor) -> Tensor:
        """Unit vectors (N, d) of mono audio, as for `forward`."""
        both_NE: Tensor = self(wave_NT)
        return both_NE[:, self.spaces[JOINT]]

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (k, d) of texts; but for rounding, a text's vector does not depend on the others."""
        parts = [list(texts[at : at + TEXTS_AT_ONCE]) for at in range(0, len(texts), TEXTS_AT_ONCE)]
        h_kE = torch.cat([self.text.encode(part) for part in parts or [[]]])
        return F.normalize(self.text_projection(h_kE).float(), dim=1)


def load_two_towers(
    source: Path | str, device: str = "cpu", *, untrained: bool = False, trust_code: bool = False
) -> TwoTowers:
    """Both towers of a snapshot, verified. No pickle is read.

    Args:
        source: a step-N folder, the link last, a run's folder, what `counterpoint export` wrote, or the name of a model
            that ships.
        device: torch device that they run on.
        untrained: the same networks at the first weights of their run, a pretrained text encoder at its own.
        trust_code: import the user's own code that it names.

    Raises:
        UserError: if it is missing or damaged, has no text tower, needs code that is not trusted, or files of its text
            encoder are missing or others.
    """
    found = open_encoder(source, trust_code=trust_code, texts=True)
    if not found.towers:
        raise UserError(no_text_tower(source))
    state = {f"{PREFIX}encoder.{name}": value for name, value in found.state.items()}
    state |= {f"{PREFIX}{name}": value for name, value in found.towers.items()}
    config = found.experiment
    about: dict[str, Any] = {**found.provenance, "snapshot": str(found.path), "step": found.step}
    about |= {"config": found.config} | ({"untrained": True} if untrained else {})
    digest = f"untrained-{found.hash}" if untrained else found.hash
    try:
        towers = TwoTowers(config, None if untrained else state, hash=digest, provenance=about)
    except RuntimeError as error:
        raise UserError(does_not_fit(found, error)) from None
    return towers.to(torch_device(device))
