"""Where an encoder is: a folder, by its file names alone, or a model that ships, by its name.

A wrong path or name is refused before torch is imported.
"""

from pathlib import Path

from cluster.files.outputs import did_you_mean
from cluster.settings import UserError
from trainers.models.shipped import ShippedModel, known_models, shipped_models

STATE = "state.json"
"""File of every snapshot."""
ABOUT = "encoder.json"
"""File of every exported encoder."""
_MARKS = (f"snapshots/last/{STATE}", ABOUT, STATE)


def shipped_model(source: Path | str) -> ShippedModel | None:
    """The model that ships under a name, or None; a folder of that name that holds an encoder comes first."""
    model, path = shipped_models().get(str(source)), Path(source)
    return None if model is None or (path / ABOUT).is_file() or _snapshot_in(path) else model


def locate(source: Path | str) -> Path:
    """The folder of an encoder: that of the model that ships under this name, else the path itself."""
    model = shipped_model(source)
    return model.folder if model else Path(source)


def absolute(place: str) -> str:
    """The same place for a process with another working directory; a URI stays."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def absolute_source(source: str) -> str:
    """The same encoder for a process with another working directory; a name stays a name, a URI a URI."""
    return source if shipped_model(source) else absolute(source)


def find_snapshot(path: Path) -> Path:
    """The folder of a snapshot: the path itself, the link ``last`` in it, or that of the run that lies there.
    If there is none the UserError names the nearest, and for a single word the models that ship.
    """
    found = _snapshot_in(path)
    if found:
        return found
    hint = ""
    if len(path.parts) == 1 and not path.exists():  # one word may be meant as a name
        hint = f", or the name of a model that ships: {known_models(str(path))}"
    if "did you mean" not in hint:
        hint += did_you_mean(path, *_MARKS)
    raise UserError(f"{path}: no snapshot here; give a step-N folder, the link last, or a run's folder{hint}")


def _snapshot_in(path: Path) -> Path | None:
    candidates = (path, path / "last", path / "snapshots" / "last")
    return next((candidate for candidate in candidates if (candidate / STATE).is_file()), None)


def check_encoder(path: Path) -> None:
    """Refuse what is neither a snapshot, nor an exported encoder, nor the name of a model that ships."""
    if not (locate(path) / ABOUT).is_file():
        find_snapshot(path)


def check_order(source: Path, catalogue: Path, command: str) -> None:
    """Refuse a model that is none; a message of its own where the catalogue is the model."""
    try:
        check_encoder(source)
    except UserError:
        try:
            check_encoder(catalogue)
        except UserError:
            pass
        else:
            right = f"counterpoint {command} {catalogue} {source}"
            raise UserError(f"{source} is no model, and {catalogue} is one; give the model first: {right}") from None
        raise
