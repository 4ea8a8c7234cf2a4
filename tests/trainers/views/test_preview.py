"""The preview shows the views of training bit for bit, describes their draws, and runs no script."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import counterpoint
from cluster.settings import UserError, to_tree
from data_shards.format.records import SAMPLE_RATE
from data_shards.read.loader import BatchLoader
from tests.hostile_page import EVIL, Seen
from trainers.augment.chain import AugmentChain
from trainers.augment.description import in_words
from trainers.augment.drawing import ViewParameters
from trainers.augment.dsp.spectral import KINDS
from trainers.augment.parameters import PRESETS
from trainers.config import ExperimentConfig
from trainers.frontends.config import FrontendConfig
from trainers.views import preview
from trainers.views.page import MAX_VERSIONS, write_page, write_preview
from trainers.views.preview import RenderedClip, RenderedView, Sound, pcm, render_effects, render_step
from trainers.views.views import ViewMaker, Views, stream_views, window_frames

MakeConfig = Callable[..., ExperimentConfig]
STEP = 3


def training_views(config: ExperimentConfig, step: int, frontend: FrontendConfig) -> Views:
    """As `loop.train` makes them on its first worker, through a front-end."""
    frames, world = window_frames(config.views, config.augment), max(1, config.resources.num_workers)
    with BatchLoader(config.data, frames=frames, seed=config.seed, rank=0, world=world) as loader:
        batches = enumerate(loader.batches(step, step + 1), step)
        return next(stream_views(ViewMaker(config.views, config.augment, frontend), batches, seed=config.seed))


@pytest.mark.parametrize("workers", [0, 2])
def test_rendered_views_equal_those_of_training_bit_for_bit(make_config: MakeConfig, workers: int) -> None:
    config = make_config(resources__num_workers=workers, seed=5)
    rendered = render_step(config, step=STEP, clips=99)
    mels, waves = (training_views(config, STEP, kind).input_N for kind in (config.frontend, FrontendConfig()))
    B = 8 // max(1, workers)
    assert [len(clip.versions) for clip in rendered] == [2] * B
    for b, clip in enumerate(rendered):
        for m, view in enumerate(clip.versions):
            assert np.array_equal(view.after.wave_T, waves[m * B + b].numpy())
            assert np.array_equal(view.after.picture_FS, mels[m * B + b].numpy())


def test_without_augmentation_after_is_before_and_both_are_the_window(make_config: MakeConfig) -> None:
    for clip in render_step(make_config(augment__preset="none"), step=STEP, clips=3):
        assert [view.description for view in clip.versions] == ["nothing", "nothing"]
        for m, view in enumerate(clip.versions):
            part = clip.window_T[m * 16_384 : (m + 1) * 16_384] / np.float32(32_768)
            assert np.array_equal(view.before.wave_T, part)
            assert np.array_equal(view.after.wave_T, part)


def test_a_faster_view_is_shown_beside_everything_that_it_read(make_config: MakeConfig) -> None:
    config = make_config(augment__preset="mule_stretch")
    sure = replace(config, augment=replace(config.augment, stretch=replace(config.augment.stretch, p=1.0)))
    for clip in render_step(sure, step=STEP, clips=4):
        for view in clip.versions:
            tempo = float(view.description.removeprefix("tempo × "))
            assert len(view.before.wave_T) == pytest.approx(16_384 * tempo, abs=16)


def test_files_hold_the_views_sample_for_sample(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    written = write_preview(config, tmp_path / "out", step=STEP, clips=2)
    assert (written.clips, written.on_page) == (2, 2)
    for clip in render_step(config, step=STEP, clips=2):
        place = written.sounds / f"slot-{clip.slot}"
        window_T, rate = soundfile.read(place / "window.wav", dtype="int16")
        assert rate == SAMPLE_RATE
        assert np.array_equal(window_T, clip.window_T)
        for view in clip.versions:
            stem = view.name.replace(" ", "-")
            assert np.array_equal(soundfile.read(place / f"{stem}.wav", dtype="float32")[0], view.after.wave_T)
            assert (place / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    description = json.loads((written.sounds / "description.json").read_text())
    assert description["draws"] == "seed 0, step 3"
    write_preview(config, tmp_path / "out", step=STEP, clips=1)  # an earlier folder is replaced
    assert len(list(written.sounds.iterdir())) == 2


def test_a_preview_that_breaks_off_leaves_the_earlier_one_or_none_and_the_same_command_makes_it(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise KeyboardInterrupt

    config = make_config()
    with monkeypatch.context() as patched:
        patched.setattr(preview, "png", broken)
        with pytest.raises(KeyboardInterrupt):
            write_preview(config, tmp_path / "out", step=STEP, clips=2)
    assert not list((tmp_path / "out").iterdir())
    whole = write_preview(config, tmp_path / "out", step=STEP, clips=2)
    sounds = sorted(whole.sounds.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(preview, "png", broken)
        with pytest.raises(KeyboardInterrupt):
            write_preview(config, tmp_path / "out", step=STEP, clips=1)
    assert sorted(whole.sounds.rglob("*")) == sounds


def test_a_folder_that_holds_something_else_is_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    mine = tmp_path / "step-3" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"step-3 is there and holds no views; choose another --out"):
        write_preview(make_config(), tmp_path, step=STEP, clips=1)
    assert mine.read_text() == "mine"


def test_each_effect_alone_does_what_its_description_states(make_config: MakeConfig) -> None:
    clip = render_effects(make_config(augment__preset="none", optim__steps=1), step=0)
    views = {version.name: version for version in clip.versions}
    kinds = [kind.replace("_", " ") for kind in KINDS[1:]]
    assert list(views)[:11] == ["gain", "polarity", "noise", *kinds, "pitch", "stretch", "delay", "severity 2"]
    before = views["gain"].before.wave_T
    assert np.array_equal(views["polarity"].after.wave_T, -before)
    gain_db = float(views["gain"].description.removeprefix("gain ").removesuffix(" dB").replace("−", "-"))
    level = np.sqrt(np.square(views["gain"].after.wave_T).mean() / np.square(before).mean())
    assert 20 * math.log10(level) == pytest.approx(gain_db, abs=0.06)
    assert views["severity 4"].description == "nothing"  # `none`, however severe
    for kind in kinds:
        assert views[kind].description.startswith(kind)
    assert {"reverb", "bitcrush", "splice out"} <= views.keys()


def test_the_page_runs_nothing_loads_nothing_and_escapes_text_of_sets(make_config: MakeConfig, tmp_path: Path) -> None:
    clips = [replace(clip, key=EVIL, labels=EVIL) for clip in render_step(make_config(), step=STEP, clips=2)]
    file = tmp_path / "page.html"
    assert write_page(clips, file, title=EVIL, facts={EVIL: EVIL}) == 2
    seen = Seen(file.read_text(encoding="utf-8"))
    assert "script" not in seen.tags
    assert seen.tags.count("audio") == seen.tags.count("img") == 2 * 2 * 2
    assert all(source.startswith("data:") for source in seen.sources)
    assert seen.text.count(EVIL) == 2 * 2 + 4


def test_the_size_of_a_page_is_bounded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal
    sound = Sound(noise(60 * SAMPLE_RATE, dtype=np.float32) / np.float32(9), noise((64, 3000), dtype=np.float32))
    clip = RenderedClip(
        slot=0,
        key="k",
        labels="",
        window_T=np.zeros(9, np.int16),
        versions=(RenderedView("view 0", "", sound, sound),) * 4,
    )
    file = tmp_path / "page.html"
    assert write_page([replace(clip, versions=clip.versions[:1])] * 3, file, title="t", facts={}) == 3
    assert file.stat().st_size < 3 * 2 * 500_000
    small = Sound(sound.wave_T[:2000], sound.picture_FS[:, :5])
    many = replace(clip, versions=(RenderedView("view 0", "", small, small),) * 20)
    assert write_page([many] * 9, file, title="t", facts={}) == MAX_VERSIONS // 20


def test_the_command_prints_where_the_page_is_and_the_next_commands(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(json.dumps(to_tree(make_config())))  # JSON is YAML
    words = ["counterpoint", "views", str(preset), "data.batch=4", "--step", "7", "--clips", "1", "--out"]
    monkeypatch.setattr("sys.argv", [*words, str(tmp_path / "views")])
    with pytest.raises(SystemExit) as stopped:
        counterpoint.main()
    assert not stopped.value.code
    output = capsys.readouterr().out
    assert str(tmp_path / "views" / "step-7.html") in output
    assert f"counterpoint views {preset} data.batch=4 --step 7 --effects" in output
    assert (tmp_path / "views" / "step-7.html").is_file()


def test_a_wave_above_full_scale_is_attenuated_for_playback_alone() -> None:
    whole, quieter_db = pcm(np.array([0.5, -2.0], np.float32))
    assert quieter_db == pytest.approx(20 * math.log10(2))
    assert whole.tolist() == [8192, -32767]
    assert pcm(np.array([0.5], np.float32))[1] == 0


def test_every_effect_is_described_in_the_order_of_the_chain() -> None:
    def one(value: float) -> torch.Tensor:
        return torch.tensor([value])

    drawn = ViewParameters(
        gain=one(-0.5),
        snr_db=one(12.0),
        noise_slope=one(-1.0),
        noise_seed=torch.tensor([1]),
        filter_kind=torch.tensor([KINDS.index("band_cut")]),
        low_hz=one(200.0),
        high_hz=one(1900.0),
        pitch_ratio=one(2 ** (-3 / 12)).double(),
        tempo=one(1.25).double(),
        delay=torch.tensor([2205]),
        reflections=torch.tensor([2]),
        attenuation=one(0.5),
        wet=one(0.75),
    )
    words = "delay", "pitch", "noise", "filter"
    assert in_words(drawn, 0, SAMPLE_RATE, words).split("; ") == [
        "gain −6.0 dB",
        "polarity turned",
        "2 echoes of 100 ms, wet 0.75, −6.0 dB a reflection",
        "transposed −3.00 semitones",
        "tempo × 1.250",
        "noise at 12.0 dB SNR, −6.0 dB an octave",
        "band cut 200 to 1,900 Hz",
    ]
    assert in_words(draw_none(), 0, SAMPLE_RATE, words) == "nothing"


def draw_none() -> ViewParameters:
    return AugmentChain(PRESETS["none"], SAMPLE_RATE).draw(torch.arange(1), step=0, seed=0, view=0)
