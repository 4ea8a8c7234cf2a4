"""The table of open-mel's music: what it keeps, and that its shards are those that the card names."""

import csv
import json
import os
from pathlib import Path

import pytest

from cluster.settings import ROOT, UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.sources.folder import read_folder
from trainers.models.open_mel_labels import EVERY, NOTES, SETS, main, open_mel_labels
from trainers.models.shipped import MODELS


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_free_licences_are_kept_and_every_fourth_note(tmp_path: Path) -> None:
    notes = [{"path": f"n{i}.ogg", "set": NOTES, "split": "train", "licence": "CC BY 4.0"} for i in range(9)]
    others = [
        {"path": "a.ogg", "set": "km", "split": "test", "licence": "CC0 1.0"},
        {"path": "b.ogg", "set": "km", "split": "test", "licence": "CC BY-NC 4.0"},
    ]
    write(tmp_path / SETS[0], [*others, *notes])
    write(tmp_path / SETS[1], [{"path": "g.ogg", "split": "train", "licence": name} for name in ("GPL-2.0", "CC0 1.0")])
    rows = list(open_mel_labels(tmp_path))
    assert [row["path"] for row in rows] == [
        "music/a.ogg", *(f"music/n{i}.ogg" for i in range(0, 9, EVERY)), "game_music/g.ogg"
    ]  # fmt: skip
    assert rows[-1]["set"] == SETS[1]


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"music/labels\.csv: not there"):
        list(open_mel_labels(tmp_path))


def test_the_program_refuses_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.csv"
    monkeypatch.setattr("sys.argv", ["open_mel_labels", str(tmp_path), "--out", str(out)])
    assert main() == 2
    assert "give the folder that holds music and game_music" in capsys.readouterr().err
    for name in SETS:
        write(tmp_path / name, [{"path": "a.ogg", "split": "train", "licence": "CC0 1.0"}])
    assert main() == 0
    with out.open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == list(open_mel_labels(tmp_path))


@pytest.mark.slow
def test_the_shards_of_the_table_are_those_that_the_card_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data"))
    if not all((data / name / "labels.csv").is_file() for name in SETS):
        pytest.skip(f"{data} has not the sets {' and '.join(SETS)}; COUNTERPOINT_DATA names the folder above them")
    labels = tmp_path / "labels.csv"
    monkeypatch.setattr("sys.argv", ["open_mel_labels", str(data), "--out", str(labels)])
    assert main() == 0
    build(read_folder(data, labels).clips, tmp_path / "shards", BuildConfig())
    card = json.loads((MODELS / "open_mel/card.json").read_text(encoding="utf-8"))
    named = {one["manifest"] for run in card["training"] for one in run["sets"]}
    assert named == {read_index(tmp_path / "shards").manifest_hash}
