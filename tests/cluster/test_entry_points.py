"""Laws of cluster/entry_points.py: users' code by ``module:factory``, its settings checked like built-in keys."""

import colorsys  # the library's, imported before a user's of that name
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import entry_points
from cluster.entry_points import (
    check_name,
    create,
    import_factory,
    own_failure,
    require_trust,
    shipped_modules,
)
from cluster.own_settings import check_settings
from cluster.settings import UserError

SOURCE = """
from dataclasses import dataclass
import numpy as np

class Net:
    def __init__(self, hidden: int = 8, kinds: tuple[str, ...] = ("a",), *, rate: int = 0) -> None:
        self.given = (hidden, kinds, rate)

@dataclass
class Odd:
    level: np.dtype = np.dtype("f4")

def from_odd(odd: Odd) -> Odd:
    return odd

@dataclass(frozen=True)
class Settings:
    alpha: float = 0.5

def from_dataclass(settings: Settings) -> Settings:
    return settings

def open_ended(hidden: int = 1, **rest: object) -> tuple:
    return hidden, rest

class Wide:
    def __init__(self, hidden: int = 8, kind: type = int, table: object = np.zeros(3), level: np.dtype = np.dtype("f4"),
                 settings: Settings = Settings()) -> None:
        self.given = (hidden, settings.alpha)
    def method(self, hidden: int = 1) -> None: ...
    @staticmethod
    def made(hidden: int = 1) -> int:
        return hidden

def by_place(hidden: int, /) -> None: ...

def quiet() -> None:
    raise ValueError

def leaving() -> None:
    raise SystemExit(0)

def failing() -> None:
    raise RuntimeError("out of paper")

constant = 3
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user's, in the working directory."""
    (tmp_path / "users_parts.py").write_text(SOURCE)
    (tmp_path / "broken_parts.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.setattr(entry_points, "_imported", {})
    yield "users_parts"
    for name in ("users_parts", "broken_parts"):
        sys.modules.pop(name, None)


def test_settings_and_what_the_product_offers_reach_the_factory(parts: str) -> None:
    assert create(f"{parts}:Net", {"hidden": 4}, "encoder.name", rate=22_050, unasked=1).given == (4, ("a",), 22_050)


def test_a_dataclass_is_built_from_the_settings(parts: str) -> None:
    assert create(f"{parts}:from_dataclass", {"alpha": 2}, "loss.objective").alpha == 2.0


def test_settings_of_an_open_ended_factory_pass_unchecked_beside_the_known(parts: str) -> None:
    assert create(f"{parts}:open_ended", {"hidden": 3, "depth": [1]}, "encoder.name") == (3, {"depth": [1]})
    with pytest.raises(UserError, match=r"encoder\.settings\.hidden: Input should be a valid integer"):
        create(f"{parts}:open_ended", {"hidden": "x"}, "encoder.name")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Net", {"hiden": 4}, r"unknown key encoder\.settings\.hiden; did you mean encoder\.settings\.hidden\?"),
        ("Net", {"hidden": "many"}, r"encoder\.settings\.hidden: Input should be a valid integer, got 'many'"),
        ("Net", {"hidden": 1.5}, r"encoder\.settings\.hidden"),
        (
            "from_dataclass",
            {"alpa": 1},
            r"unknown key encoder\.settings\.alpa; did you mean encoder\.settings\.alpha\?",
        ),
        ("Nets", {}, r"encoder\.name=users_parts:Nets: module users_parts has no Nets; did you mean users_parts:Net\?"),
        ("constant", {}, r"constant is a int, not a function or class"),
        ("Wide.mode", {}, r"module users_parts has no Wide\.mode; did you mean users_parts:Wide\.made\?"),
        ("Wide.method", {}, r"encoder\.settings: Wide\.method is a method that needs an object"),
        ("Wide", {"level": "f8"}, r"encoder\.settings\.level: a configuration holds text, .* no dtype; take text"),
        ("from_odd", {}, r"encoder\.settings\.level: a configuration holds text"),
        ("by_place", {}, r"encoder\.settings\.hidden: settings are passed by name, .* of by_place takes none"),
        ("by_place", {"hidden": 1}, r"settings are passed by name"),
        ("quiet", {}, r"the factory failed \(ValueError\)"),
        ("leaving", {}, r"the factory failed \(SystemExit: 0\)"),
        ("failing", {}, r"encoder\.name=users_parts:failing: the factory failed \(RuntimeError: out of paper\)"),
    ],
)
def test_what_does_not_fit_is_one_message_with_the_key(parts: str, name: str, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(f"{parts}:{name}", settings, "encoder.name")


def test_what_the_product_passes_is_no_setting(parts: str) -> None:
    with pytest.raises(UserError, match=r"unknown key encoder\.settings\.rate"):
        create(f"{parts}:Net", {"rate": 5}, "encoder.name", rate=22_050)


def test_a_missing_module_is_distinguished_from_one_that_it_imports(parts: str) -> None:
    with pytest.raises(UserError, match=r"no module nowhere_at_all in .* or on PYTHONPATH"):
        import_factory("nowhere_at_all:x", "encoder.name")
    with pytest.raises(UserError, match="broken_parts imports a_module_that_is_nowhere, which is not installed"):
        import_factory("broken_parts:x", "encoder.name")


def test_imported_modules_are_shipped_and_installed_ones_are_not(parts: str, tmp_path: Path) -> None:
    import_factory(f"{parts}:Net", "encoder.name")
    import_factory("json:loads", "encoder.name")
    import_factory("torch.nn:Linear", "encoder.name")
    assert shipped_modules() == [str((tmp_path / "users_parts.py").resolve())]


def test_code_that_a_file_names_waits_for_trust() -> None:
    require_trust({}, "run", trust_code=False)
    require_trust({"encoder.name": "a:b"}, "run", trust_code=True)
    with pytest.raises(UserError, match=r"run: needs code .*encoder\.name=a:b.*--trust-code"):
        require_trust({"encoder.name": "a:b"}, "run", trust_code=False)


def test_names_are_checked_without_importing_anything() -> None:
    check_name("name", "module_that_is_nowhere:Factory", ("mel_cnn",), {"hidden": 1})
    with pytest.raises(ValueError, match="did you mean mel_cnn"):
        check_name("name", "mel_cn", ("mel_cnn",), {})
    with pytest.raises(ValueError, match="settings belong to a name of your own"):
        check_name("name", "mel_cnn", ("mel_cnn",), {"hidden": 1})


def test_parameters_without_a_default_are_asked_for() -> None:
    def factory(width: int) -> int:
        return width

    with pytest.raises(UserError, match=r"loss\.settings\.width is missing; give it a value"):
        check_settings(factory, {}, "loss.settings")


def test_a_parameter_that_no_setting_names_keeps_its_default_whatever_its_type(parts: str) -> None:
    assert create(f"{parts}:Wide", {"hidden": 4}, "encoder.name").given == (4, 0.5)
    assert create(f"{parts}:Wide", {"settings": {"alpha": 2.0}}, "encoder.name").given == (8, 2.0)
    assert create(f"{parts}:Wide.made", {"hidden": 3}, "encoder.name") == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit(0)", r"importing a_users_module failed \(SystemExit: 0\)"),
        ("raise RuntimeError('nope')", r"importing a_users_module failed \(RuntimeError: nope\)"),
        ("def broken(:", r"importing a_users_module failed \(SyntaxError: "),
    ],
)
@pytest.mark.usefixtures("parts")
def test_a_module_that_ends_while_it_is_imported_is_named(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "a_users_module.py").write_text(source)
    with pytest.raises(UserError, match=rf"encoder\.name=a_users_module:Net: {message}"):
        import_factory("a_users_module:Net", "encoder.name")


@pytest.mark.usefixtures("parts")
def test_a_module_is_named_by_where_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "inside_parts").mkdir()
    (tmp_path / "inside_parts/__init__.py").touch()
    (tmp_path / "inside_parts/network.py").write_text("class Net: ...")
    assert colorsys.__file__
    (tmp_path / "colorsys.py").write_text("class Net: ...")
    for name, message in (
        ("user_parts:Net", r"no module user_parts in .*; did you mean users_parts\?; start the command in the folder"),
        ("inside_parts.netwrk:Net", r"inside_parts \(.*__init__\.py\) has no module netwrk; did you mean network\?"),
        ("inside_parts:network.Net", r"did you mean inside_parts\.network:Net\?"),
        ("json:Net", r"module json \(.*json/__init__\.py\) has no Net"),
        ("sys:Net", r"module sys \(built in\) has no Net"),
    ):
        with pytest.raises(UserError, match=message):
            import_factory(name, "encoder.name")
    sys.modules.pop("inside_parts", None)
    with pytest.raises(
        UserError, match=r"module colorsys \(.*lib.*; it hides .*colorsys\.py: rename that\) has no Net"
    ):
        import_factory("colorsys:Net", "encoder.name")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("./parts/net.py:Net", r"write net:Net and start in, or add to PYTHONPATH, \./parts"),
        ("net.Net", "write net:Net"),
        (" net:Net", "write net:Net"),
    ],
)
def test_a_path_is_answered_with_its_entry_point(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=meant):
        check_name("name", name, ("mel_cnn",), {})


def test_only_users_lines_count_as_users_failures(parts: str) -> None:
    factory = import_factory(f"{parts}:failing", "encoder.name")
    with pytest.raises(RuntimeError) as caught:
        factory()
    assert own_failure(caught.value).endswith("in failing")
    assert not own_failure(ValueError("of the product"))
