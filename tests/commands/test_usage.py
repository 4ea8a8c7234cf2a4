"""Options that a command does not have, and keys that are wrong: what was meant, and where it was given."""

import pytest
from typer.testing import CliRunner, Result

from cluster.settings import UserError
from commands.app import app

PRETRAIN, EVALUATION = "conf/pretrain/tiny.yaml", "conf/evaluation/tiny.yaml"
SWEEP, OUT = "conf/sweep/quickstart.yaml", ("--out", "nowhere/at/all")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pretrain", PRETRAIN, "--batch", "8"], "did you mean data.batch=8?"),
        (["pretrain", PRETRAIN, "--batch=8", "seed=1"], "did you mean data.batch=8?"),
        (["pretrain", PRETRAIN, "-batch", "8"], "did you mean data.batch=8?"),
        (["pretrain", PRETRAIN, "--data.batch", "8"], "did you mean data.batch=8?"),
        (["pretrain", PRETRAIN, "--learning-rate", "1e-3"], "did you mean optim.learning_rate=1e-3?"),
        (["pretrain", PRETRAIN, "--temprature"], "did you mean loss.temperature=VALUE?"),
        (["pretrain", PRETRAIN, "--out", "runs"], "did you mean run.dir=runs?"),
        (["pretrain", PRETRAIN, "--seed", "1"], "did you mean seed=1?"),
        (["pretrain", PRETRAIN, "--dry"], "did you mean --dry-run?"),
        (["pretrain", PRETRAIN, "--p", "1"], "did you mean augment.p=1 or "),
        (["pretrain", PRETRAIN, "--lr", "1"], "keys are listed by `counterpoint config pretrain`"),
        (["views", PRETRAIN, *OUT, "--count", "3"], "did you mean views.count=3?"),
        (["quickstart", "--steps", "5"], "did you mean optim.steps=5?"),
        (["evaluate", "open-mel", EVALUATION, "--seeds", "3"], "did you mean seeds=3?"),
        (["evaluate", "open-mel", EVALUATION, "--shards", "music"], "did you mean data.shards=music?"),
        (["sweep", SWEEP, "--trials", "3"], "did you mean sweep.trials=3?"),
        (["sweep", SWEEP, "--dir", "runs"], "did you mean sweep.dir=runs?"),
        (["sweep", SWEEP, "--batch", "3"], "did you mean data.batch=3?"),
        (["study", "table4", "--seeds", "2"], "did you mean study.seeds=2?"),
        (["shards", "build", "folder", *OUT, "--rate", "16000"], "did you mean build.rate=16000?"),
        (["shards", "build", "folder", *OUT, "--tracks", "3"], "`counterpoint shards build synthetic` has it"),
        (["captions", "check", "music", "--each", "1"], "text.partial.each=1 or text.swap.each=1?"),
        (["search", "open-mel", "music", "--space", "pitch"], "did you mean --by?"),
        (["search", "open-mel", "music", "--timeline"], "`counterpoint embed` has it"),
        (["embed", "open-mel", "music", "--spaces", "pitch"], "did you mean --space?"),
        (["ui", "--prot", "80"], "did you mean --port?"),
    ],
)
def test_an_option_that_there_is_not_is_answered_with_what_was_meant(words: list[str], meant: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    message = done.stderr.splitlines()[-1]
    assert message.startswith("Error: No such option: -")
    assert meant in message
    assert "Possible options" not in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "open-mel", EVALUATION, "sedes=3"], "command line: unknown key sedes; did you mean seeds?"),
        (["evaluate", "open-mel", EVALUATION, "seeds=0"], f"{EVALUATION} and command line: seeds must be > 0, got 0"),
        (["evaluate", "open-mel", EVALUATION, "--against", "trained=x"], f"{EVALUATION} and --against: against cannot"),
        (["quickstart", "optim.stepps=3"], "command line: unknown key optim.stepps; did you mean optim.steps?"),
        (["sweep", SWEEP, "optim.stepps=3"], "command line: unknown key optim.stepps; did you mean optim.steps?"),
        (["sweep", SWEEP, "sweep.trails=3"], "command line: unknown key sweep.trails; did you mean sweep.trials?"),
        (["sweep", SWEEP, "optim.steps=0"], f"{SWEEP} and command line: optim: steps must be >= 1, got 0"),
        (["study", "table4", "study.seds=3"], "command line: unknown key study.seds; did you mean study.seeds?"),
        (["study", "table4", "study.parallel=0"], "command line: study: parallel must be >= 1, got 0"),
        (["shards", "build", "synthetic", *OUT, "--tracks", "0"], "command line: tracks must be > 0, got 0"),
        (["pretrain", "data.batch=8"], "data.batch=8: a key where the YAML file belongs; give the file first"),
        (["study", "optim.steps=8"], "optim.steps=8: a key where the study belongs; give the study first"),
    ],
)
def test_every_command_names_where_a_wrong_key_was_given(words: list[str], message: str) -> None:
    done = run(*words)
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(message)
