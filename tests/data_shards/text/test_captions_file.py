"""Prompts out, captions in: each line of a file is checked, and what it says ends up in the index."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import counterpoint
from cluster.settings import UserError
from data_shards.format.index import ShardIndex, read_index
from data_shards.text.captions_file import prompts, read_captions

MakeFolder = Callable[..., tuple[Path, Path]]


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["counterpoint", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        counterpoint.main()
    return int(stopped.value.code or 0)


def test_prompts_are_answered_and_built_into_a_set(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, labels = make_folder(12)
    build = ["shards", "build", "folder", "--audio", audio, "--labels", labels]
    assert run(monkeypatch, *build, "--out", tmp_path / "a") == 0
    capsys.readouterr()
    assert run(monkeypatch, "captions", "prompts", tmp_path / "a", "--each", 3, "--least", 1) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    before = read_index(tmp_path / "a")
    tagged = before.rows("train")[before.labels("tags")[before.rows("train")].any(axis=1)]
    assert len(lines) == 3 * len(tagged)
    assert f"{len(before.rows('train')) - len(tagged)} of {len(before.rows('train'))} clips have no tags" in printed.err
    assert all(tag in line["prompt"] for line in lines for tag in line["tags"])
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({**line, "captions": ["Zé toca 音楽 🎸, calm."]}) + "\n" for line in lines))
    assert run(monkeypatch, *build, "--out", tmp_path / "b", "--captions", answers) == 0
    index = read_index(tmp_path / "b")
    for row in tagged.tolist():
        given = [tuple(sorted(line["tags"])) for line in lines if line["key"] == index.key[row]]
        assert list(index.captions[row]) == ["Zé toca 音楽 🎸, calm."] * 3
        assert index.tags_of_captions(row) == given


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("not json", "line 2: not JSON"),
        ("[1]", "line 2: a list"),
        ('{"captions": ["x"]}', "line 2: key is None"),
        ('{"key": 3, "captions": ["x"]}', "line 2: key is 3"),
        ('{"key": "a", "prompt": "Write"}', "line 2: a prompt without captions"),
        ('{"key": "a"}', "line 2: captions is None"),
        ('{"key": "a", "captions": "x"}', "line 2: captions is 'x'"),
        ('{"key": "a", "captions": ["  "]}', "line 2: a caption of a is empty"),
        ('{"key": "a", "captions": ["' + "la " * 10_000 + '"]}', "10,000 words; give at most 1,000"),
        ('{"key": "a", "captions": ["x", "y"], "tags": [["calm"]]}', "1 lists of tags for 2 captions"),
        ('{"key": "a", "captions": ["x"], "tags": "calm"}', "line 2: tags is 'calm'"),
        ('{"key": "a", "captions": ["x"], "tags": [[""]]}', "is empty or no text"),
        ('{"key": "a", "captions": ["x"], "tags": [[3]]}', "is empty or no text"),
    ],
)
def test_a_wrong_line_is_refused_by_file_and_line(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"key": "a", "captions": ["fine"], "tags": ["calm"]}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"captions\.jsonl, {what}" if what.startswith("line") else what):
        read_captions(path)


@pytest.mark.parametrize(("content", "what"), [(b"", "no lines"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_that_holds_nothing_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=what):
        read_captions(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="no such file"):
        read_captions(tmp_path / "other.jsonl")


def test_keys_of_no_clip_are_refused_before_anything_is_built(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, labels = make_folder(3)
    (tmp_path / "c.jsonl").write_text('{"key": "nobody", "captions": ["x"]}\n')
    out = ["--out", tmp_path / "b", "--captions", tmp_path / "c.jsonl"]
    assert run(monkeypatch, "shards", "build", "folder", "--audio", audio, "--labels", labels, *out) == 2
    assert "1 of 1 keys are of no clip, for example nobody" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_one_list_of_tags_holds_for_all_captions_of_a_line_and_lines_of_a_key_are_joined(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"key": "a", "captions": ["x", "y"], "tags": ["calm", "calm"]},
        {"key": "a", "captions": ["z"]},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_captions(tmp_path / "c.jsonl")["a"] == (("x", "y", "z"), (("calm",), ("calm",), ()))


@pytest.mark.medium
def test_prompts_are_the_same_for_the_same_seed_and_never_hold_all_tags(index: ShardIndex) -> None:
    one, two = list(prompts(index, each=2)), list(prompts(index, each=2))
    assert one == two != list(prompts(index, each=2, seed=1))
    counts = sum(index.labels(column).sum(axis=1) for column in index.vocabularies)
    tags = dict(zip(index.key, counts, strict=True))
    assert all(2 <= len(line["tags"]) < tags[line["key"]] for line in one)


def test_prompts_of_a_split_without_tags_are_refused(index: ShardIndex) -> None:
    with pytest.raises(UserError, match="no clip of the split valid has tags"):
        next(prompts(index, split="valid"))


def test_a_check_of_swaps_reports_chance(
    captioned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "captions", "check", captioned, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["interval"][0] < 0.5
    assert not found["betrayed"]
    assert len(found["examples"]) == 3
    assert run(monkeypatch, "captions", "check", captioned, "text.swap.each=0") == 2
