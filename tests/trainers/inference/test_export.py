"""What `counterpoint export` writes is the encoder, whole, checked, and readable by anyone without pickle."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trainers.inference.export
from cluster.files.storage import sha256
from cluster.settings import RunError, UserError, load_config, to_tree
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.sampling.sampler import chosen_share
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers.config import ExperimentConfig
from trainers.frontends.frontend import build_frontend
from trainers.inference.export import CARD, TOLERANCE, Exported, ExportOptions, export_encoder
from trainers.inference.frozen import WEIGHTS, load_encoder, open_encoder, untrained_encoder
from trainers.inference.model_card import ONNX, PROGRAM, model_card
from trainers.inference.training_data import FACTS, attributions, training_sets, trainings
from trainers.model import build_model
from trainers.state.places import ABOUT
from trainers.state.snapshot import CHECKSUMS, save_snapshot

SMALL = ["encoder.name=mel_cnn", "encoder.channels=4", "frontend.kind=mel", "views.samples=16384"]
WHOLE = {
    "sample_cnn": ["encoder.name=sample_cnn"],
    "mel_cnn": ["encoder.name=mel_cnn", "frontend.kind=mel"],
    "tune_plus": ["encoder.name=tune_plus"],
    "nfnet": ["encoder.name=nfnet", "encoder.channels=48", "frontend.kind=mule", "views.samples=66000"],
}
HASH = "ab" * 32


def waves(count: int, samples: int) -> Tensor:
    return 0.3 * torch.randn(count, samples, generator=torch.Generator().manual_seed(count))


def write_snapshot(folder: Path, overrides: list[str], data_hash: str = f"{HASH}:-") -> Path:
    """A snapshot of a network that has seen a little noise, so that its BatchNorm's statistics are not the first."""
    config = load_config(ExperimentConfig, None, overrides)
    model = build_model(config.encoder, config.head, config.loss, seed=config.seed)
    model.projector.encoder(build_frontend(config.frontend, 22_050)(waves(2, config.views.samples)))
    optimizer = torch.optim.Adam(model.parameters())
    about: dict[str, Any] = {"config": to_tree(config), "data_hash": data_hash, "provenance": {"git_revision": "abc"}}
    return save_snapshot(folder, step=7, model=model, optimizer=optimizer, state=about, keep=1)


@dataclass(frozen=True)
class Made:
    snapshot: Path
    exported: Exported


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_sets: tuple[Path, Path]) -> Made:
    """A small Mel-CNN exported once, with shards and a report."""
    folder = tmp_path_factory.mktemp("export")
    labelled, _ = tiny_sets
    manifest = read_index(labelled).manifest_hash
    snapshot = write_snapshot(folder, [*SMALL, f"data.labelled={labelled}"], f"{manifest}:-")
    row = {"value": 0.75, "low": 0.7, "high": 0.8, "n": 40, "convention": "macro AUROC over tags"}
    report = {
        "provenance": {"encoder": load_encoder(snapshot).hash},
        "metrics": {"tags/auroc": row, "key/weighted": row | {"value": None}},
        "baselines": {"untrained": {"tags/auroc": row | {"value": 0.5}}},
    }
    (folder / "report.json").write_text(json.dumps(report))
    return Made(snapshot, export_encoder(snapshot, folder / "out", ExportOptions(report=folder / "report.json")))


def run_onnx(folder: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("wave", [load_encoder(folder).samples])]
    return lambda wave: torch.from_numpy(session.run(["embedding"], {"wave": wave.numpy()})[0])


def assert_same_embeddings(snapshot: Path, folder: Path) -> None:
    own, again = load_encoder(snapshot), load_encoder(folder)
    program, onnx = torch.export.load(folder / PROGRAM).module(), run_onnx(folder)
    for count in (1, 2, 5):
        wave = waves(count, own.samples)
        h_NE = own(wave)
        assert h_NE.abs().max() > 0
        assert torch.equal(again(wave), h_NE)
        with torch.no_grad():
            torch.testing.assert_close(program(wave), h_NE, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(onnx(wave), h_NE, rtol=1e-4, atol=1e-5)


def test_a_small_export_gives_the_snapshot_s_embeddings(small: Made) -> None:
    assert_same_embeddings(small.snapshot, small.exported.folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*WHOLE])
def test_every_encoder_exports_as_it_is(name: str, tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, WHOLE[name])
    made = export_encoder(snapshot, tmp_path / "out")
    assert not made.left_out
    assert all(difference <= TOLERANCE for difference in made.differences.values())
    assert_same_embeddings(snapshot, made.folder)


def test_every_file_is_checksummed(small: Made) -> None:
    folder = small.exported.folder
    sums = json.loads((folder / CHECKSUMS).read_text())
    assert sorted(sums) == sorted(p.name for p in folder.iterdir() if p.name != CHECKSUMS)
    assert sorted(sums) == sorted([CARD, FACTS, ABOUT, WEIGHTS, PROGRAM, ONNX])
    assert all(sha256(folder / name) == digest for name, digest in sums.items())


def test_a_program_holds_no_pickle(small: Made) -> None:
    with zipfile.ZipFile(small.exported.folder / PROGRAM) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name, content in contents.items():
        assert not zipfile.is_zipfile(io.BytesIO(content)), name  # torch.save writes a zip around a pickle
        assert not content.startswith(b"\x80"), name
        if name.endswith("_config.json"):
            assert b'"use_pickle": true' not in content, name
    assert any(name.endswith("weights/weight_0") for name in contents)


def test_the_card_describes_the_encoder_and_its_origin(small: Made) -> None:
    card = (small.exported.folder / CARD).read_text()
    manifest = read_index(Path(load_encoder(small.snapshot).provenance["config"]["data"]["labelled"])).manifest_hash
    for fact in (
        "mel_cnn, 128-dimensional",
        "22,050 Hz, 16,384 samples",
        "64 bands (slaney)",
        f"manifest `{manifest}`; at most the 12 clips of split train",
        "licences (clips):",
        "unlabelled: none",
        "steps: 7 of",
        "temperature 0.1",
        "pitch (p = 0.6): min_transpose_semitones -4.0",
        'load_encoder("this folder")  #',
        "| tags/auroc | 0.75 | 0.7…0.8 | 0.5 | 40 | macro AUROC over tags |",
        "Intended use and limits",
        "What training varied (gain, polarity, noise, filter, pitch, delay)",
        "`encoder.onnx`: ONNX, wave to embedding",
    ):
        assert fact in card, fact


def test_a_card_admits_what_it_does_not_know(small: Made, tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, [*SMALL, f"data.labelled={tmp_path / 'gone'}"])
    found = open_encoder(snapshot)
    training = trainings(found)
    card = model_card(found, load_encoder(snapshot), training=training, files={}, left_out={}, metrics=[])
    assert "licences not known: the shards of this manifest are not where the run read them" in card
    assert "without an evaluation report" in card


def test_a_card_counts_the_clips_that_were_drawn_from_and_no_others(tmp_path: Path) -> None:
    clips = list(corpus(SyntheticConfig(tracks=40, seconds=4.0, valid_share=0.25, test_share=0.25, seed=5)))
    clips = [replace(clip, licence="CC0" if clip.split == "train" else "all rights reserved") for clip in clips]
    build(clips, tmp_path / "set", BuildConfig(workers=1))
    index = read_index(tmp_path / "set")
    train, whole = len(index.rows("train")), len(index)
    assert 10 < train < whole
    data = [f"data.{name}={tmp_path / 'set'}" for name in ("labelled", "unlabelled")]
    data += ["data.p_s=0.5", "data.batch=4", "data.b_s=0.5"]

    def lines(step: int, *more: str) -> list[str]:
        config = load_config(ExperimentConfig, None, [*SMALL, *data, *more])
        used = [index.manifest_hash if count else "-" for count in (config.data.b_s > 0, config.data.b_s < 1)]
        return [one.line() for one in training_sets(config, ":".join(used), step=step)]

    (alone,) = [line for line in lines(1000, "data.b_s=0") if line.startswith("unlabelled")]
    splits = index.manifest["splits"]
    by_split = f"train {train} of {train}, valid 0 of {splits['valid']}, test 0 of {splits['test']}"
    assert f"drew {train} of {train} clips" in alone
    assert by_split in alone
    assert f"licences (clips): CC0 ({train})" in alone
    assert "all rights reserved" not in alone
    assert f"drew 8 of {train} clips" in lines(2, "data.b_s=0")[0]
    kept = int(chosen_share(index.id_hash[index.rows("train")], 0.5).sum())
    assert 0 < kept < train
    assert f"drew {kept} of {kept} clips" in lines(1000, "data.b_s=1")[0]


def test_an_export_of_an_export_is_the_same(small: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # ONNX takes time
    again = export_encoder(small.exported.folder, tmp_path / "again")
    assert load_encoder(again.folder).provenance["exported_from"] == load_encoder(small.exported.folder).hash
    assert (again.folder / WEIGHTS).read_bytes() == (small.exported.folder / WEIGHTS).read_bytes()


def test_the_untrained_encoder_of_an_export_is_that_of_its_snapshot(small: Made) -> None:
    wave = waves(2, 16_384)
    first = untrained_encoder(small.snapshot)(wave)
    assert torch.equal(untrained_encoder(small.exported.folder)(wave), first)
    assert not torch.equal(load_encoder(small.exported.folder)(wave), first)


def test_a_report_of_another_encoder_is_refused(small: Made, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"provenance": {"encoder": HASH}, "metrics": {}}))
    with pytest.raises(UserError, match="evaluates the encoder abababababab"):
        export_encoder(small.snapshot, tmp_path / "out", ExportOptions(report=report))
    for content in ("{", "{}", "[]", '{"provenance": 3}'):
        report.write_text(content)
        with pytest.raises(UserError, match=r"not a report\.json"):
            export_encoder(small.snapshot, tmp_path / "out", ExportOptions(report=report))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_never_replaced(small: Made, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no exported encoder; choose another folder for --out"):
        export_encoder(small.snapshot, tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_without_the_extra_the_rest_is_written_and_the_remedy_named(
    small: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    made = export_encoder(small.snapshot, tmp_path / "out")
    assert "pip install 'counterpoint-audio[onnx]'" in made.left_out[ONNX]
    assert "pip install 'counterpoint-audio[onnx]'" in (made.folder / CARD).read_text()
    assert not (made.folder / ONNX).exists()
    assert "onnx" not in made.files
    assert load_encoder(made.folder).width == 128


def test_an_operator_that_onnx_does_not_know_leaves_only_onnx_out(
    small: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("Failed\n\nNo ONNX function found for aten.stft.default")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    made = export_encoder(small.snapshot, tmp_path / "out")
    assert "aten.stft.default; use encoder.pt2" in made.left_out[ONNX]
    assert (made.folder / PROGRAM).is_file()


def test_a_program_that_computes_something_else_is_not_kept(
    small: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Louder(trainers.inference.export._Embedder):
        def forward(self, wave: Tensor) -> Tensor:
            return super().forward(1.01 * wave)

    monkeypatch.setattr(trainers.inference.export, "_Embedder", Louder)
    with pytest.raises(RunError, match=r"encoder\.pt2 differs from the encoder by .* nothing was written"):
        export_encoder(small.snapshot, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == []


def test_half_precision_halves_the_file_and_changes_little(small: Made, tmp_path: Path) -> None:
    made = export_encoder(small.snapshot, tmp_path / "out", ExportOptions(half=True, programs=False))
    names = {path.name for path in made.folder.iterdir()}
    assert names == {CARD, FACTS, ABOUT, WEIGHTS, CHECKSUMS}
    whole, half = ((folder / WEIGHTS).stat().st_size for folder in (small.exported.folder, made.folder))
    assert half < 0.6 * whole
    wave = waves(3, 16_384)
    own, again = load_encoder(small.snapshot)(wave), load_encoder(made.folder)(wave)
    assert 0 < (own - again).abs().max() < 5e-3 * own.abs().max()
    assert all(value.dtype == torch.float32 for value in load_encoder(made.folder).encoder.parameters())


def test_whose_music_it_was_trained_on_lies_beside_the_card(small: Made, tmp_path: Path) -> None:
    training = trainings(open_encoder(small.snapshot))
    keys = [key for run in training for one in run.sets for key in one.keys]
    assert len(keys) > 2
    table = tmp_path / "labels.csv"
    rows = [f"{key},Piece {n % 2} by A,CC BY 4.0" for n, key in enumerate([*keys, "unused"])]
    table.write_text("\n".join(["key,attribution,licence", *rows]))
    options = ExportOptions(programs=False, attribution=table)
    made = export_encoder(small.snapshot, tmp_path / "out", options)
    lines = (made.folder / "attribution.csv").read_text().splitlines()
    even = -(-len(keys) // 2)
    assert lines[0] == "attribution,licence,clips"
    assert lines[1:] == [f"Piece 0 by A,CC BY 4.0,{even}", f"Piece 1 by A,CC BY 4.0,{len(keys) - even}"]
    assert "attribution of the music: `attribution.csv`" in (made.folder / CARD).read_text()
    assert json.loads((made.folder / FACTS).read_text())["training"][0]["sets"][0]["licences"]
    table.write_text("\n".join(["key,attribution,licence", *rows[1:]]))
    with pytest.raises(UserError, match=rf"1 of the {len(keys)} clips of the training have none, such as {keys[0]}"):
        attributions(training, table)
    table.write_text("path\nx\n")
    with pytest.raises(UserError, match="no column attribution; there are path"):
        attributions(training, table)
    table.write_text("attribution\nx\n")
    with pytest.raises(UserError, match="no column path; there are attribution"):
        attributions(training, table)
    table.write_text("\n".join(["sep=;", "key;attribution", *(f"{key};A" for key in keys)]), encoding="utf-16")
    assert attributions(training, table).splitlines()[1:] == [f"A,,{len(keys)}"]


def test_a_card_goes_back_to_what_the_run_started_from(small: Made, tmp_path: Path) -> None:
    first = write_snapshot(tmp_path / "first", SMALL)
    second = write_snapshot(tmp_path / "second", [*SMALL, f"init_from={first}"])
    assert [one.run for one in trainings(open_encoder(second))] == ["step-7", "step-7"]
    third = write_snapshot(tmp_path / "third", [*SMALL, f"init_from={small.exported.folder}"])
    chain = trainings(open_encoder(third))
    assert [len(one.sets) for one in chain] == [0, 1]
    assert chain[1].sets[0].licences == trainings(open_encoder(small.snapshot))[0].sets[0].licences
    lost = write_snapshot(tmp_path / "lost", [*SMALL, f"init_from={tmp_path / 'gone'}"])
    assert "is gone, so what it was trained on is not known" in (trainings(open_encoder(lost))[1].unknown or "")


def test_an_export_names_no_folder_of_the_machine_that_trained(small: Made, tmp_path: Path) -> None:
    keys = [f"data.labelled={tmp_path}/set", f"run.dir={tmp_path}/run", f"data.cache={tmp_path}/cache"]
    snapshot = write_snapshot(tmp_path / "here", [*SMALL, *keys, f"init_from={small.exported.folder}"])
    made = export_encoder(snapshot, tmp_path / "out", ExportOptions(programs=False))
    text = "".join((made.folder / name).read_text() for name in (ABOUT, FACTS, CARD))
    assert str(tmp_path) not in text
    assert str(small.exported.folder.parent) not in text
    config = open_encoder(made.folder).config
    assert (config["data"]["labelled"], config["run"]["dir"], config["init_from"]) == ("set", "run", "out")
    assert config["data"]["cache"] is None
