"""Refusals: all faults in one message, before anything slow is imported, with the nearest that is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.refusals import Refusals
from cluster.settings import ROOT, UserError, load_config, parse_overrides, read_yaml, to_tree
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME, check_set
from evaluation.config import EvaluationConfig
from evaluation.search.asked import check_encoder_can_answer, check_space
from trainers.augment.corruptions import CORRUPTIONS
from trainers.augment.parameters import CORRUPTION_NAMES
from trainers.config import ExperimentConfig
from trainers.encoders import sample_cnn, tune_plus
from trainers.encoders.config import FRONTENDS, SHORTEST
from trainers.model import ENCODERS
from trainers.state.places import ABOUT, STATE, check_encoder
from tuning.study.plan import plan_study
from tuning.sweep.config import load_sweep
from tuning.sweep.plan import plan_sweep

SLOW = ("torch", "ray", "mlflow", "pandas")
PRETRAIN, EVALUATION = "conf/pretrain/tiny.yaml", "conf/evaluation/quickstart.yaml"
REFUSED = [
    ["--help"],
    ["no-such-command"],
    *([command, "--help"] for command in ("quickstart", "doctor", "pretrain", "views", "export", "evaluate")),
    *([command, "--help"] for command in ("embed", "search", "sweep", "study", "ui", "replay", "submit")),
    ["shards", "build", "folder", "--help"],
    ["shards", "build", "mtat", "--help"],
    ["quickstart", "bad.key=1"],
    ["pretrain", PRETRAIN, "--batch", "8"],
    ["search", "nowhere", "music", "--space", "pitch"],
    ["pretrain", PRETRAIN, "bad.key=1"],
    ["pretrain", PRETRAIN, "nothing"],
    ["pretrain", "conf/pretrain/none-of-these.yaml"],
    ["pretrain", PRETRAIN, "data.labelled=nowhere", "data.unlabelled=nowhere"],
    ["views", PRETRAIN, "--out", "views", "bad.key=1"],
    ["evaluate", "nowhere", EVALUATION, "bad.key=1"],
    ["evaluate", "nowhere", EVALUATION, "data.shards=nowhere"],
    ["embed", "nowhere", "song.wav"],
    ["search", "nowhere", "music", "song.wav"],
    ["map", "nowhere", "music"],
    ["export", "nowhere", "--out", "out"],
    ["sweep", "conf/sweep/quickstart.yaml", "bad.key=1"],
    ["sweep", "conf/sweep/quickstart.yaml", "sweep.trial=1"],
    ["study", "table7", "bad.key=1"],
    ["study", "no-such-study"],
    ["shards", "build", "folder", "--audio", "music", "--out", "out", "build.codecc=flac"],
    ["shards", "build", "mtat", "--root", "music", "--out", "out", "build.codecc=flac"],
]
EACH_IN_TURN = f"""
import contextlib, io, json, sys
import counterpoint
found = []
for words in json.load(sys.stdin):
    sys.argv = ["counterpoint", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            counterpoint.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    found.append((words, code, [name for name in {SLOW!r} if name in sys.modules]))
print(json.dumps(found))
"""


def test_nothing_slow_is_imported_to_say_that_a_command_is_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH_IN_TURN],
        input=json.dumps(REFUSED),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(done.stdout)
    assert len(found) == len(REFUSED)
    for words, code, imported in found:
        assert code == (0 if "--help" in words else 2), words
        assert imported == [], words


def made_run(folder: Path, preset: str, *words: str) -> Path:
    """A run's folder of which the JSON alone is there: enough to know what it can be asked."""
    config = load_config(ExperimentConfig, ROOT / preset, list(words))
    last = folder / "snapshots" / "last"
    last.mkdir(parents=True)
    (last / STATE).write_text(json.dumps({"config": to_tree(config)}))
    return folder


def test_nothing_slow_is_imported_to_say_that_an_encoder_cannot_be_asked_so(tmp_path: Path) -> None:
    plain = str(made_run(tmp_path / "plain", PRETRAIN))
    words = str(made_run(tmp_path / "words", "conf/pretrain/music_text_tiny.yaml"))
    song, music = tmp_path / "song.wav", str(tmp_path)
    song.touch()
    asked = [
        ["search", words, music],
        ["search", words, music, "--text", " "],
        ["search", words, music, "nowhere.wav"],
        ["search", words, "nowhere", "--text", "slow"],
        ["search", words, music, "--text", "slow", "--by", "embedding"],
        ["search", words, music, "--text", "slow", "--text-share", "2"],
        ["search", words, music, str(song), "--by", "music_txet"],
        ["search", words, music, str(song), "--keep-query", "--exclude-track"],
        ["search", words, music, str(song), "--by", "tempo:x"],
        ["search", plain, music, "--text", "slow"],
        ["search", plain, music, str(song), "--by", "tempo"],
        ["tag", words, music, "--tags", "slow,,fast"],
        ["tag", words, music, "--tags", "slow,slow"],
        ["tag", words, music, "--tags", "slow", "--prompt", "music"],
        ["tag", words, "nowhere", "--tags", "slow"],
        ["tag", plain, music, "--tags", "slow"],
        ["embed", plain, "nowhere", "--out", str(tmp_path / "e.parquet")],
        ["embed", plain, music, "--space", "pitch", "--out", str(tmp_path / "e.parquet")],
        ["map", plain, music, "--by", "pitch"],
        ["map", plain, "nowhere"],
        ["evaluate", plain, "conf/evaluation/text_study.yaml", "--out", str(tmp_path / "report")],
    ]
    program = [sys.executable, "-c", EACH_IN_TURN]
    done = subprocess.run(program, input=json.dumps(asked), cwd=ROOT, capture_output=True, text=True, check=True)
    for given, code, imported in json.loads(done.stdout):
        assert (code, imported) == (2, []), given


def test_a_space_that_is_misspelt_gets_the_nearest(tmp_path: Path) -> None:
    words = made_run(tmp_path / "words", "conf/pretrain/music_text_tiny.yaml")
    with pytest.raises(UserError, match="no space music_txet; it has embedding, music_text, all; did you"):
        check_encoder_can_answer(words, "music_txet")
    with pytest.raises(UserError, match=r"--space: the encoder has no space music; .*did you mean music_text"):
        check_space(words, "music")
    with pytest.raises(UserError, match="has no text tower; train one on it with"):
        check_encoder_can_answer(made_run(tmp_path / "plain", PRETRAIN), texts=True)
    with pytest.raises(UserError, match=r"--tags: .* has no text tower"):
        check_encoder_can_answer(made_run(tmp_path / "other", PRETRAIN), texts=True, option="--tags")
    check_encoder_can_answer(words, texts=True)
    check_encoder_can_answer("module:factory", texts=True)  # it is asked once it is made


def test_every_fault_of_a_configuration_is_named_at_once() -> None:
    words = ["bad.key=1", "optim.steps=0", "optim.learning_rate=-1", "loss.temperatur=1", "data.b_s=2", "data.batch=0"]

    with pytest.raises(UserError) as refused:
        load_config(ExperimentConfig, ROOT / PRETRAIN, [*words, "run.dir=3"])

    said = str(refused.value)
    assert len(said.splitlines()) == 7
    for part in (
        "bad",
        "steps must be",
        "learning_rate must be",
        "loss.temperatur;",
        "b_s must",
        "batch must",
        "run.dir",
    ):
        assert part in said, part


def test_faults_between_sections_are_named_beside_each_other() -> None:
    words = ["resources.min_workers=5", "resources.num_workers=2", "views.samples=10", "seed=-1", "optim.micro_batch=2"]

    with pytest.raises(UserError) as refused:
        load_config(ExperimentConfig, ROOT / PRETRAIN, words)

    said = str(refused.value)
    assert len(said.splitlines()) == 4
    for part in ("min_workers must be", "views.samples=10 is too short", "seed must be", "optim.micro_batch=CLIPS"):
        assert part in said, part


@pytest.mark.parametrize(
    "words",
    [["encoder.name=foo", "encoder.channels=8"], ["optim.warmup_steps=x"], ["loss.objective=bce", "optim.steps=abc"]],
)
def test_what_only_follows_from_a_fault_is_not_a_fault(words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        load_config(ExperimentConfig, ROOT / PRETRAIN, [*words, "data.b_s=1"])
    assert len(str(refused.value).splitlines()) == 1


def test_every_word_that_is_no_override_is_named() -> None:
    with pytest.raises(UserError, match=r"'x' is not an override.*\n'=3' is not an override"):
        parse_overrides(["x", "seed=1", "=3"])


def test_the_faults_of_an_evaluation_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"(?s)ks must be.*seeds must be|seeds must be.*ks must be"):
        load_config(EvaluationConfig, ROOT / EVALUATION, ["seeds=0", "ks=[]"])


def test_a_study_names_what_is_wrong_in_all_its_rows_claims_and_evaluations(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"""
title: mine
source: none
pretrain: {PRETRAIN}
rows:
  a: {{optim.steps: 0}}
  b: {{optim.stepz: 3}}
evaluations:
  - {{preset: {EVALUATION}, metrics: {{AP: tags/ap}}, set: {{seedz: 3}}}}
claims:
  - {{statement: more, metric: no-column, row: a, over: b, sign: higher}}
  - {{statement: less, metric: AP, row: no-row, over: b, sign: higher}}
scales:
  paper: {{about: all}}
""")

    with pytest.raises(UserError) as refused:
        plan_study(str(tmp_path / "mine.yaml"), "paper", {"study.dir": str(tmp_path / "study"), "seed": 1})

    said = str(refused.value)
    for part in (
        "seed: a study",
        "shards of evaluation, labelled, unlabelled",
        "and row a: optim: steps must be",
        "row b: unknown key optim.stepz",
        "evaluations: unknown key seedz",
    ):
        assert part in said, part
    for part in ("no column no-column", "no row no-row"):
        assert part in said, part
    assert not (tmp_path / "study").exists()


def test_a_sweep_names_what_is_wrong_in_its_space_its_experiment_and_its_objective(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"""
preset: {PRETRAIN}
experiment: {{tracking.enabled: false, optim.steps: 0}}
objective: {{metrics: [tags/accuracy]}}
space:
  loss.temperature: {{uniform: [0.5, 0.1]}}
  optim.learning_rate: {{triangle: [0.1, 0.5]}}
""")

    with pytest.raises(UserError) as refused:
        plan_sweep(load_sweep(file, []), "sweep.yaml")

    said = str(refused.value)
    for part in ("tracking.enabled beside", "steps must be", "tags/accuracy", "low end must be < its high", "triangle"):
        assert part in said, part


def test_refusals_are_said_once_each_and_in_order() -> None:
    refusals = Refusals()
    refusals.require_none()
    for message in ("b", "a\nb"):
        with refusals.noted():
            raise UserError(message)
    with pytest.raises(UserError, match=r"^b\na$"):
        refusals.require_none()


def test_a_wrong_place_names_the_nearest_set_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("other/corpus", "shards/my-music"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / INDEX_NAME).touch()
        (tmp_path / name / MANIFEST_NAME).touch()
    monkeypatch.chdir(tmp_path)
    check_set("data.labelled", "shards/my-music")
    check_set("data.labelled", "s3://elsewhere/set")
    for wrong in ("shards/my_music", "shards", "shard/my-music", "shards/my-music/deep"):
        with pytest.raises(UserError, match=rf"data.labelled={wrong}: .*; did you mean shards/my-music\?"):
            check_set("data.labelled", wrong)
    with pytest.raises(UserError, match=rf"did you mean {tmp_path}/other/corpus\?"):
        check_set("data.labelled", str(tmp_path / "other/corpvs"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no such folder.*; make one: counterpoint shards build"):
        check_set("data.labelled", "mine")


def test_a_wrong_place_names_the_nearest_run(tmp_path: Path) -> None:
    for mark in (f"run-a/snapshots/last/{STATE}", f"exported/{ABOUT}"):
        (tmp_path / mark).parent.mkdir(parents=True)
        (tmp_path / mark).touch()
    check_encoder(tmp_path / "run-a")
    check_encoder(tmp_path / "exported")
    with pytest.raises(UserError, match=rf"no snapshot here.*did you mean {tmp_path}/run-a\?"):
        check_encoder(tmp_path / "run-b")
    with pytest.raises(UserError, match=rf"did you mean {tmp_path}/exported\?"):
        check_encoder(tmp_path / "export")


def test_a_wrong_preset_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError, match=rf"did you mean {tmp_path}/mine.yaml\?"):
        read_yaml(tmp_path / "mime.yaml")
    for wrong in ("semisupcn", "conf/pretrian/semisupcon.yaml"):  # neither lies in a folder with such a file
        with pytest.raises(UserError, match=r"did you mean .*conf/pretrain/semisupcon.yaml"):
            read_yaml(Path(wrong))


def test_the_tables_that_stand_for_networks_are_theirs() -> None:
    """What a configuration knows of networks and corruptions without importing torch."""
    assert set(SHORTEST) == set(ENCODERS) == set(FRONTENDS)
    assert SHORTEST["sample_cnn"] == (sample_cnn.SHORTEST,)
    assert SHORTEST["tune_plus"] == (tune_plus.SHORTEST,)
    assert set(CORRUPTION_NAMES) == set(CORRUPTIONS)
