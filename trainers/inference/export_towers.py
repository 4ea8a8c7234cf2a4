"""Both towers of a run as one ONNX graph: waves and tokens in, unit vectors of the joint space out.

Shape suffixes: N views, T samples, k texts, L tokens, d width of the joint space.
"""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cluster.settings import RunError, first_line
from trainers.inference.spaces import TOWERS
from trainers.inference.two_towers import TwoTowers
from trainers.text.encoder import Tokens

TOWERS_ONNX = "towers.onnx"
TOWERS_FILES = {
    TOWERS: "weights of the text tower and of both projections, safetensors; `load_two_towers(FOLDER)` reads them",
    TOWERS_ONNX: (
        "ONNX, both towers, every length dynamic; inputs `wave`, `ids` and `mask` (tokens of texts, as "
        "`load_two_towers(FOLDER).text.tokenize(texts)` gives them), outputs `audio` and `text`: unit vectors, whose "
        "products are cosines"
    ),
}
"""Files of two towers, and their descriptions in the model card."""
TOLERANCE = 1e-4
"""Largest difference of a coordinate of a unit vector from the towers' own."""
PROBES = (("a slow piece", "an energetic track with drums, played by a flute in a minor key"), ("rock",))


class NoOnnxError(Exception):
    """Why there is no graph, and what to do."""


def require_onnx() -> None:
    """Refuse where a package is missing that writes a graph or tries it; `NoOnnxError` names it."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise NoOnnxError(f"needs {', '.join(missing)}: pip install 'counterpoint-audio[onnx]' and export again")


class _Given(NamedTuple):
    """Inputs of the graph."""

    wave_NT: Tensor
    ids_kL: Tensor
    mask_kL: Tensor


class _Graph(nn.Module):
    """Both towers without their frozen wrappers, whose inference mode a graph cannot hold."""

    def __init__(self, towers: TwoTowers) -> None:
        super().__init__()
        self.frontend, self.encoder = towers.audio.frontend, towers.audio.encoder
        self.text = towers.text
        self.audio_projection, self.text_projection = towers.audio_projection, towers.text_projection
        for buffer in self.buffers():
            buffer.data = buffer.data.clone()  # a window may be a slice of a longer one
        self.train(False)

    def forward(self, wave: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (N, T) and tokens (k, L) to unit vectors (N, d) and (k, d)."""
        audio_Nd = self.audio_projection(self.encoder(self.frontend(wave)).float())
        text_kd = self.text_projection(self.text(Tokens(ids, mask))).float()
        return normalize(audio_Nd, dim=1), normalize(text_kd, dim=1)


def write_towers_onnx(towers: TwoTowers, file: Path) -> float:
    """Write the graph, and try it on other numbers of views, texts and tokens than it was made with.
    Returns the largest difference from the towers themselves.

    Raises NoOnnxError if a package is missing or the text encoder cannot be traced, RunError if the graph computes
    something else.
    """
    require_onnx()
    import onnx
    import onnxruntime

    example = _given(towers, *PROBES[:1], views=2)
    batch, texts = (torch.export.Dim(name, min=1) for name in ("views", "texts"))
    length = torch.export.Dim.AUTO  # a text encoder with learned positions has a longest text
    shapes = {"wave": {0: batch}, "ids": {0: texts, 1: length}, "mask": {0: texts, 1: length}}
    inputs, outputs = ["wave", "ids", "mask"], ["audio", "text"]
    try:
        graph = torch.export.export(_Graph(towers), tuple(example), dynamic_shapes=shapes)
        torch.onnx.export(
            graph, tuple(example), file, input_names=inputs, output_names=outputs, external_data=False, verbose=False
        )
    except Exception as error:  # whatever of a text encoder's operations cannot be traced
        file.unlink(missing_ok=True)
        raise NoOnnxError(
            f"the text encoder cannot be traced ({first_line(error)}); load both towers by load_two_towers(FOLDER)"
        ) from None
    model = onnx.load(file)
    names = json.dumps({"input_names": inputs, "output_names": outputs})
    onnx.helper.set_model_props(model, {"towers": towers.hash, "rate_hz": str(towers.rate), "inputs": names})
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    worst = 0.0
    for views, probe in zip((1, 3), PROBES, strict=True):
        given = _given(towers, probe, views=views)
        found = session.run(None, {name: x.numpy() for name, x in zip(inputs, given, strict=True)})
        own = towers.embed_audio(given.wave_NT), towers.embed_text(probe)
        worst = max(worst, *(float((torch.from_numpy(a) - b).abs().max()) for a, b in zip(found, own, strict=True)))
    if not worst <= TOLERANCE:
        raise RunError(
            f"{file.name} differs from the towers by {worst:.2g}, more than {TOLERANCE:g}; nothing was written"
        )
    return worst


def _given(towers: TwoTowers, texts: tuple[str, ...], *, views: int) -> _Given:
    wave_NT = 0.1 * torch.randn(views, towers.samples, generator=torch.Generator().manual_seed(views))
    tokens = towers.text.tokenize(texts)
    return _Given(wave_NT, tokens.ids_kL, tokens.mask_kL)
