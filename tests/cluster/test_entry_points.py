"""Laws of cluster/entry_points.py: users' code by ``module:factory``, its settings checked like built-in keys."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import entry_points
from cluster.entry_points import check_name, check_settings, create, import_factory, require_trust, shipped_modules
from cluster.settings import UserError

SOURCE = """
from dataclasses import dataclass

class Net:
    def __init__(self, hidden: int = 8, kinds: tuple[str, ...] = ("a",), *, rate: int = 0) -> None:
        self.given = (hidden, kinds, rate)

@dataclass(frozen=True)
class Settings:
    alpha: float = 0.5

def from_dataclass(settings: Settings) -> Settings:
    return settings

def open_ended(hidden: int = 1, **rest: object) -> tuple:
    return hidden, rest

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

    with pytest.raises(UserError, match=r"loss\.settings\.width: Field required"):
        check_settings(factory, {}, "loss.settings")
