"""`counterpoint models`, and the commands that take a model's name."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.settings import UserError
from commands.app import app
from trainers.models.shipped import shipped_models

NAME = "open-mel"


def run(*words: str) -> Result:
    done = CliRunner().invoke(app, list(words))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_list_names_every_model_with_the_licence_of_its_weights() -> None:
    text, rows = run("models", "list").output, json.loads(run("models", "list", "--json").output)
    assert [row["name"] for row in rows] == list(shipped_models())
    for row in rows:
        assert f"{row['name']}  {row['summary']}  (CC BY-SA 4.0)" in text
        assert f"counterpoint models show {row['name']}" in text


def test_show_answers_what_it_was_trained_on_and_under_which_licences() -> None:
    text = run("models", "show", NAME).output
    tree = json.loads(run("models", "show", NAME, "--json").output)
    assert (tree["licence"], tree["name"]) == ("CC BY-SA 4.0", NAME)
    assert Path(tree["attribution"]).is_file()
    assert tree["limits"]
    assert tree["config"]["encoder"]["name"] == tree["encoder"]
    for one in tree["training"]:
        assert one["sets"]
        for each in one["sets"]:
            assert each["licences"]
            assert all(licence in text for licence in each["licences"])
    assert "Intended use and limits" in text
    for metric in tree["metrics"]:
        assert metric["metric"] in text


@pytest.mark.parametrize("name", ["open-mle", "open_mel", "trainers/models/open_mel"])
def test_an_unknown_name_names_those_there_are(name: str) -> None:
    with pytest.raises(UserError, match=rf"no model that ships with this release; those are .*{NAME}"):
        run("models", "show", name)


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "open-mle", "song.wav"],
        ["search", "open-mle", ".", "song.wav"],
        ["tag", "open-mle", ".", "--tags", "rock"],
        ["map", "open-mle", "."],
        ["export", "open-mle", "--out", "out"],
        ["evaluate", "open-mle", "conf/evaluation/tiny.yaml", "data.shards=."],
        ["evaluate", NAME, "conf/evaluation/tiny.yaml", "--against", "other=open-mle"],
        ["pretrain", "conf/pretrain/tiny.yaml", "init_from=open-mle"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_command_names_the_models_there_are(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path.cwd()
    monkeypatch.chdir(tmp_path)
    words = [str(here / word) if word.startswith("conf/") else word for word in words]
    with pytest.raises(UserError, match=rf"open-mle: no snapshot here; .* a model that ships: .*did you mean {NAME}\?"):
        run(*words)
