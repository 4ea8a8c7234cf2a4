from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.settings import (
    Config,
    UserError,
    flatten,
    leaf_paths,
    load_config,
    parse_overrides,
    read_yaml,
    to_tree,
    validate,
)


@dataclass(frozen=True, kw_only=True)
class Loss(Config):
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class Experiment(Config):
    seed: int = 0
    sync: bool = False
    name: str = "run"
    shape: tuple[int, ...] = (1,)
    loss: Loss = field(default_factory=Loss)


def preset(folder: Path, text: str) -> Path:
    path = folder / "preset.yaml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_default(tmp_path: Path) -> None:
    path = preset(tmp_path, "seed: 3\nloss:\n  temperature: 0.2\n")
    config = load_config(Experiment, path, ["loss.temperature=1e-2"])
    assert config == Experiment(seed=3, loss=Loss(temperature=0.01))


def test_a_configuration_survives_its_plain_tree() -> None:
    config = Experiment(seed=5, shape=(2, 3))
    assert validate(Experiment, to_tree(config), "test") == config
    assert set(flatten(to_tree(config))) == set(leaf_paths(Experiment))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.temprature=0.1"], r"unknown key loss.temprature; did you mean loss.temperature"),
        (["temperature=0.1"], r"unknown key temperature; did you mean loss.temperature"),
        (["lossy.temperature=0.1"], r"^command line: unknown key lossy; did you mean loss"),
        (["loss.seed=1"], r"unknown key loss.seed; did you mean seed\?"),
        (["seed=true"], r"seed: .*integer.*got True"),
        (["seed=1.5"], r"seed: .*integer"),
        (["sync=no"], r"sync: .*boolean.*got 'no'"),
        (["loss.temperature=hot"], r"loss.temperature: .*number.*got 'hot'"),
        (["loss.temperature=0"], r"loss: temperature must be > 0, got 0"),
        (["seed"], r"'seed' is not an override; write key=value"),
        (["seed", "=", "1"], r"^'seed = 1' is not an override; write seed=1 in one word$"),
        (["seed=", "1"], r"^'seed= 1' is not an override; write seed=1 in one word$"),
        (["seed", "=1"], r"^'seed =1' is not an override; write seed=1 in one word$"),
        (["seed:", "1"], r"^'seed: 1' is not an override; write seed=1 in one word$"),
        (["seed=1", "seed.x=2"], r"seed.x: seed is a value, not a section"),
        (["loss.temperature=1", 'loss={"temperature": 2}'], r"loss would undo loss.temperature=1; give loss before it"),
        ([".seed=1"], r"'.seed=1' is not an override; write key=value"),
        (["loss..temperature=1"], r"'loss..temperature=1' is not an override"),
        (["loss.temperature=NaN"], r"loss.temperature: .*finite number.*got nan"),
        (["loss.temperature=Infinity"], r"loss.temperature: .*finite number.*got inf"),
        (["seed=" + "9" * 5000], r"seed: .*integer, got '99+\.\.\.9+'$"),
        (["name=2024"], r"""name: .*string, got 2024; text .* takes quotes: name='"2024"'"""),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Experiment, None, words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "duplicate key 'seed'"),
        ("sync: no\n", "sync: .*boolean.*got 'no'"),
        ("- 1\n- 2\n", "holds a list"),
        ("a: &x [1]\nb: *x\n", "aliases are not allowed"),
        ("1: 2\n", "key 1 is not a string"),
        ("seed: [\n", "expected the node content"),
        ("seed: 1:30\n", "seed: .*integer.*got '1:30'"),
        ("seed: 010\n", "seed: .*integer.*got '010'"),
        ("seed: 2024-01-01\n", "seed: .*integer.*got '2024-01-01'"),
        ("seed: !!timestamp 2024-01-01\n", "could not determine a constructor"),
        ("shape: !!set {a, b}\n", "could not determine a constructor"),
        ("name: !!binary aGk=\n", "could not determine a constructor"),
        ("!!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("[" * 5000 + "]" * 5000, "recursion"),
    ],
)
def test_a_preset_that_yaml_would_misread_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Experiment, preset(tmp_path, text))


def test_a_yaml_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(UserError, match="aliases"):
        read_yaml(preset(tmp_path, "\n".join(lines)))


def test_numbers_are_read_as_a_person_means_them(tmp_path: Path) -> None:
    path = preset(tmp_path, "loss:\n  temperature: 1e-3\nname: 12:30\nseed: -0\nshape: [+3, 66_000]\n")
    config = load_config(Experiment, path)
    assert config == Experiment(seed=0, name="12:30", shape=(3, 66_000), loss=Loss(temperature=1e-3))


def test_a_folder_is_no_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_yaml(tmp_path)


def test_a_missing_preset_names_the_nearest_one(tmp_path: Path) -> None:
    preset(tmp_path, "")
    with pytest.raises(UserError, match=r"presett.yaml: no such file; did you mean .*preset.yaml"):
        read_yaml(tmp_path / "presett.yaml")


def test_an_oversized_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most"):
        read_yaml(preset(tmp_path, "# " + "x" * (1 << 20)))


def test_a_list_of_words_on_the_command_line_needs_no_quotes() -> None:
    words = [
        "a=[pitch,stretch]",
        'b=["pitch", "stretch"]',
        "c=[ pitch , 2 ]",
        "d=[pitch",
        "e=a,b",
        "f=[a,[b]]",
    ]
    assert parse_overrides(words) == {
        "a": ["pitch", "stretch"],
        "b": ["pitch", "stretch"],
        "c": ["pitch", 2],
        "d": "[pitch",
        "e": "a,b",
        "f": "[a,[b]]",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"loss.temperature: 1\n",
            r"unknown key loss.temperature; in YAML a dot makes no section: write temperature below",
        ),
        (b"loss:\n  temperature.x: 1\n", r"write x below temperature:"),
        (b"loss:\n\ttemperature: 1\n", r"line 2, column 1.*; YAML is indented with spaces, not tabs$"),
        (b"seed: 1\nseed: 2\n", r"duplicate key 'seed' in line 1, column 1"),
        (b"name: caf\xe9\n", r"byte 0xe9 at 9 is not UTF-8; save the file as UTF-8$"),
        ("seed: 1".encode("utf-16"), r"byte 0xff at 0 is not UTF-8"),
        (
            b"loss:\n  temperature: 1\n  xyzzyxyzzyxyzzyxyzzy: {}\n",
            r"unknown key loss.xyz.*; known are loss.temperature$",
        ),
    ],
)
def test_what_yaml_reads_otherwise_than_its_writer_meant_is_named_with_the_remedy(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "preset.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config(Experiment, file)


def test_a_section_whose_lines_are_all_comments_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text("loss:\n  # temperature: 0.5\nseed: 3\n")
    assert load_config(Experiment, file) == Experiment(seed=3)
    assert load_config(Experiment, file, ["loss.temperature=0.5"]).loss.temperature == 0.5


def test_a_folder_with_the_name_of_a_preset_is_not_proposed_for_itself(tmp_path: Path) -> None:
    (tmp_path / "own_preset_of_mine.yaml").mkdir()
    with pytest.raises(UserError, match=r"is a folder$"):
        load_config(Experiment, tmp_path / "own_preset_of_mine.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sed=1"], "command line: unknown key sed; did you mean seed"),
        (["loss.temperature=x"], "command line: loss.temperature: "),
        (["loss.temperature=-1"], "{} and command line: loss: temperature must be > 0"),
        ({"name": 3}, "overrides: name: "),
        ([], "{}: shape: "),
        (["seed=2"], "{}: shape: "),
    ],
)
def test_a_problem_is_named_where_its_key_was_given(
    tmp_path: Path, overrides: list[str] | dict[str, int], message: str
) -> None:
    path = preset(tmp_path, "shape: no\n" if not overrides or overrides == ["seed=2"] else "seed: 3\n")
    with pytest.raises(UserError) as caught:
        load_config(Experiment, path, overrides)
    assert str(caught.value).startswith(message.format(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: é\n".encode("latin-1"), "byte 0xe9 at 6 is not UTF-8; save the file as UTF-8"),
        ("seed: 1\n".encode("utf-16"), "byte 0xff at 0 is not UTF-8; save the file as UTF-8"),
        ("seed: 1\nname:\u00a0a\nsync: true\n".encode(), "line 2 has U+00A0 (NO-BREAK SPACE): type it again"),
        ("see\u200bd: 1\n".encode(), r"unknown key 'see\u200bd'; did you mean seed?"),
        ("s\u0435\u0435d: 1\n".encode(), r"unknown key 's\u0435\u0435d'; did you mean seed?"),
    ],
)
def test_signs_that_look_like_others_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "preset.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(Experiment, path)
    assert message in str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "preset.yaml"
    path.write_bytes(mark + b"seed: 7\r\nloss:\r\n  temperature: 0.2\r\n")
    assert load_config(Experiment, path) == Experiment(seed=7, loss=Loss(temperature=0.2))
