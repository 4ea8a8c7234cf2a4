"""An encoder for others: weights, model card, torch.export program and ONNX in one folder, each checked first.

Every program goes from the wave to the embedding, front-end included, for any number of views of the encoder's length.

Shape suffixes: N views, T samples, E encoder width.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cluster.files.outputs import require_replaceable_folder
from cluster.files.storage import atomic_folder, sha256, write_atomic
from cluster.settings import RunError, UserError, first_line
from trainers.inference.export_towers import TOWERS_FILES, TOWERS_ONNX, NoOnnxError, require_onnx, write_towers_onnx
from trainers.inference.frozen import (
    HEADS,
    SCHEMA_VERSION,
    WEIGHTS,
    EncoderFiles,
    FrozenEncoder,
    load_encoder,
    open_encoder,
)
from trainers.inference.model_card import ONNX, PROGRAM, card_facts, model_card, read_metrics
from trainers.inference.spaces import TOWERS, head_names, spaces_tree
from trainers.inference.training_data import ATTRIBUTION, FACTS, attributions, trainings
from trainers.inference.two_towers import load_two_towers
from trainers.state.places import ABOUT
from trainers.state.snapshot import CHECKSUMS

CARD = "README.md"
PROGRAMS = {
    PROGRAM: "torch.export program, wave to embedding, dynamic batch; weights as raw bytes, no pickle",
    ONNX: "ONNX, wave to embedding, dynamic batch; input `wave`, output `embedding`",
}
"""Graphs of an export, and their descriptions in the model card."""
PROBE_VIEWS = (1, 3)
"""Batches that every program is tried on before it is kept."""
TOLERANCE = 1e-4
"""Largest difference from the encoder itself, relative to the largest value of its embeddings."""
Run = Callable[[Tensor], Tensor]
PLACES = (
    ("data", "labelled"), ("data", "unlabelled"), ("data", "cache"), ("run", "dir"), ("", "init_from"),
    ("text", "cache"), ("tracking", "uri"),
)  # fmt: skip
"""Settings of a run, by section and key, that name places of its own machine."""
FORGOTTEN = ("cache", "uri")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written, and how."""

    report: Path | None = None
    """report.json of an evaluation of this very encoder, for the card."""
    half: bool = False
    """Weights of two and more dimensions as float16: half the size, embeddings differ in the fourth digit."""
    programs: bool = True
    """Also torch.export programs and ONNX."""
    attribution: Path | None = None
    """CSV with path and attribution of the clips that were trained on, listed beside the card."""


@dataclass(frozen=True)
class Exported:
    """What was made."""

    folder: Path
    files: dict[str, Path]
    """By name: weights, card, program, onnx; of two towers also towers and towers_onnx."""
    left_out: dict[str, str]
    """Files that could not be made, and what to do about it."""
    differences: dict[str, float]
    """Of each program from the encoder, relative to its largest value."""


def export_encoder(
    source: Path | str, out: Path, options: ExportOptions | None = None, *, trust_code: bool = False
) -> Exported:
    """Write an encoder into ``out``: a whole folder or none, its files checksummed.

    Args:
        source: a snapshot, a run's folder, an exported folder, or the name of a model that ships.
        out: a folder that does not exist, is empty, or holds an earlier export, which is replaced.
        options: what is written.
        trust_code: import the user's own code that it names.

    Raises:
        UserError: for a bad source, report, table or folder.
        RunError: if a program computes something else than the encoder.
    """
    options = options or ExportOptions()
    require_replaceable_folder(out, "--out")
    found = open_encoder(source, trust_code=trust_code, texts=True)
    metrics = read_metrics(options.report, found.hash) if options.report else []
    training = trainings(found)
    credits = attributions(training, options.attribution) if options.attribution else None
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / ABOUT).is_file())):
        raise UserError(f"{out}: exists and is no exported encoder; choose another folder for --out")
    encoder = load_encoder(source, trust_code=trust_code)
    with atomic_folder(out) as partial:
        files = _write_parts(found, encoder, partial, half=options.half)
        differences: dict[str, float] = {}
        left_out: dict[str, str] = {}
        if options.programs:
            differences, left_out = _write_programs(found, encoder, partial)
            files |= {name: words for name, words in PROGRAMS.items() if name in differences}
            if found.towers:
                _add_towers_onnx(source, partial, differences, left_out, trust_code=trust_code)
                files |= {name: words for name, words in TOWERS_FILES.items() if name in differences}
        if credits:
            write_atomic(partial / ATTRIBUTION, credits)
            files[ATTRIBUTION] = "whose music it was trained on, and its licences"
        facts = card_facts(found, encoder, training, metrics)
        write_atomic(partial / FACTS, json.dumps(facts, indent=1))
        files[FACTS] = "this card for programs"
        card = model_card(found, encoder, training=training, files=files, left_out=left_out, metrics=metrics)
        write_atomic(partial / CARD, card)
        sums = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        write_atomic(partial / CHECKSUMS, json.dumps(sums, indent=1))
    names = {"weights": WEIGHTS, "card": CARD, "program": PROGRAM, "onnx": ONNX}
    names |= {"towers": TOWERS, "towers_onnx": TOWERS_ONNX} if found.towers else {}
    made = {name: out / file for name, file in names.items() if file in sums}
    return Exported(out, made, left_out, differences)


def _write_parts(found: EncoderFiles, encoder: FrozenEncoder, folder: Path, *, half: bool) -> dict[str, str]:
    """Write what `load_encoder` reads; the files and what they are."""
    size = ", float16" if half else ""
    files = {
        WEIGHTS: f"weights of the encoder, safetensors{size}",
        ABOUT: "input, configuration, provenance",
    }
    _write_weights(folder / WEIGHTS, found.state, half=half)
    if found.heads:
        files[HEADS] = f"weights of the heads, whose outputs are spaces (`with_heads()`), safetensors{size}"
        _write_weights(folder / HEADS, found.heads, half=half)
    if found.towers:
        files[TOWERS] = TOWERS_FILES[TOWERS] + size
        _write_weights(folder / TOWERS, found.towers, half=half)
    write_atomic(folder / ABOUT, json.dumps(_about(found, encoder), indent=1, sort_keys=True))
    return files


def _add_towers_onnx(
    source: Path | str, folder: Path, differences: dict[str, float], left_out: dict[str, str], *, trust_code: bool
) -> None:
    """The graph of both towers: how far it is from them, or why there is none."""
    try:
        with _quiet("torch.onnx._internal.exporter._registration"):
            towers = load_two_towers(source, trust_code=trust_code)
            differences[TOWERS_ONNX] = write_towers_onnx(towers, folder / TOWERS_ONNX)
    except NoOnnxError as reason:
        left_out[TOWERS_ONNX] = str(reason)


def _write_weights(file: Path, state: Mapping[str, Tensor], *, half: bool) -> None:
    def stored(tensor: Tensor) -> Tensor:
        # Statistics and biases stay float32: a variance may be below float16's smallest.
        matrix = half and tensor.ndim > 1 and tensor.dtype == torch.float32
        return tensor.half() if matrix else tensor

    # Not save_file: its files are readable by their owner alone.
    file.write_bytes(save({name: stored(tensor).contiguous() for name, tensor in state.items()}))


def _write_programs(
    found: EncoderFiles, encoder: FrozenEncoder, folder: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Write the graphs: how far each is from the encoder, and why there is none."""
    try:
        program = _program(encoder)
    except Exception as error:  # whatever of a user's network cannot be traced
        if not found.experiment.own_parts():
            raise
        why = f"torch.export cannot trace your own code ({first_line(error)}); it loads from {WEIGHTS} with that code"
        return {}, {PROGRAM: why, ONNX: why}
    program.example_inputs = None  # the one part of a .pt2 that would be a pickle
    differences = {PROGRAM: _write_program(program, encoder, folder / PROGRAM)}
    try:
        differences[ONNX] = _write_onnx(program, encoder, folder / ONNX)
    except NoOnnxError as reason:
        return differences, {ONNX: str(reason)}
    return differences, {}


def save_program(encoder: FrozenEncoder, file: Path) -> None:
    """Write a torch.export program from wave to embedding, any number of views, with its example input.

    The example is what ``torch.load(weights_only=True)`` takes: MLflow refuses a program in which it is left out.
    Raises RunError if the program computes something else than the encoder.
    """
    _write_program(_program(encoder), encoder, file)


def _program(encoder: FrozenEncoder) -> torch.export.ExportedProgram:
    return torch.export.export(
        _Embedder(encoder), (_probe(encoder, 2),), dynamic_shapes={"wave": {0: torch.export.Dim("batch", min=1)}}
    )


def _write_program(program: torch.export.ExportedProgram, encoder: FrozenEncoder, file: Path) -> float:
    torch.export.save(program, file)
    return _difference(encoder, torch.export.load(file).module(), PROGRAM)


class _Embedder(nn.Module):
    """Front-end and encoder without the frozen wrapper, whose inference mode a graph cannot hold."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        super().__init__()
        self.frontend, self.encoder = encoder.frontend, encoder.encoder
        for buffer in self.buffers():
            buffer.data = buffer.data.clone()  # a window may be a slice of a longer one: a .pt2 wants whole storages
        self.train(False)

    def forward(self, wave: Tensor) -> Tensor:
        """(N, T) to (N, E)."""
        embedding: Tensor = self.encoder(self.frontend(wave)).float()
        return embedding


def _write_onnx(program: torch.export.ExportedProgram, encoder: FrozenEncoder, file: Path) -> float:
    require_onnx()
    import onnx
    import onnxruntime

    with _quiet("torch.onnx._internal.exporter._registration"):  # it misses torchvision, which nothing here uses
        try:
            torch.onnx.export(
                program,
                (_probe(encoder, 2),),
                file,
                input_names=["wave"],
                output_names=["embedding"],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            file.unlink(missing_ok=True)
            first = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise NoOnnxError(
                f"not exportable with torch {torch.__version__}: {first.strip()}; use {PROGRAM}"
            ) from None
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"spaces": json.dumps(spaces_tree(encoder.spaces)), "encoder": encoder.hash})
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return _difference(encoder, lambda wave: torch.from_numpy(session.run(None, {"wave": wave.numpy()})[0]), file.name)


def _difference(encoder: FrozenEncoder, run: Run, name: str) -> float:
    worst = 0.0
    for count in PROBE_VIEWS:
        wave_NT = _probe(encoder, count)
        with torch.no_grad():
            own_NE, other_NE = encoder(wave_NT), run(wave_NT)
        worst = max(worst, float((own_NE - other_NE).abs().max() / own_NE.abs().max().clamp(min=1e-12)))
    if not worst <= TOLERANCE:
        raise RunError(
            f"{name} differs from the encoder by {worst:.2g} of its largest value, more than {TOLERANCE:g}; "
            "nothing was written"
        )
    return worst


def _probe(encoder: FrozenEncoder, count: int) -> Tensor:
    return 0.1 * torch.randn(count, encoder.samples, generator=torch.Generator().manual_seed(count))


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration for others: of the folders of its machine the names alone, and no address of a tracker."""
    tree: dict[str, Any] = json.loads(json.dumps(config))
    for section, key in PLACES:
        part = tree.get(section, {}) if section else tree
        if isinstance(part.get(key), str):
            part[key] = None if key in FORGOTTEN else Path(part[key]).name
    return tree


def _about(found: EncoderFiles, encoder: FrozenEncoder) -> dict[str, object]:
    parts = found.own_parts(texts=bool(found.towers))
    return {
        "schema_version": SCHEMA_VERSION,
        "input": {"rate_hz": encoder.rate, "samples": encoder.samples, "frontend": found.config["frontend"]},
        "width": encoder.width,
        "spaces": spaces_tree(encoder.spaces),
        "head_spaces": list(head_names(found.experiment)),
        "step": found.step,
        "data_hash": found.data_hash,
        "config": _without_places(found.config),
        "provenance": found.provenance | {"exported_from": found.hash},
        **({"own_code": {"included": False, "parts": parts}} if parts else {}),
    }


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
