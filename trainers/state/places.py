"""Whether a folder holds an encoder, by its file names alone: a wrong path is refused before torch is imported."""

from pathlib import Path

from cluster.files.nearest import did_you_mean
from cluster.settings import UserError

STATE = "state.json"
"""File of every snapshot."""
ABOUT = "encoder.json"
"""File of every exported encoder."""
_MARKS = (f"snapshots/last/{STATE}", ABOUT, STATE)


def find_snapshot(path: Path) -> Path:
    """The folder of a snapshot: the path itself, the link ``last`` in it, or that of the run that lies there.

    Raises:
        UserError: if there is none; names the nearest.
    """
    for candidate in (path, path / "last", path / "snapshots" / "last"):
        if (candidate / STATE).is_file():
            return candidate
    raise UserError(
        f"{path}: no snapshot here; give a step-N folder, the link last, or a run's folder{did_you_mean(path, *_MARKS)}"
    )


def check_encoder(path: Path) -> None:
    """Refuse a place that holds neither a snapshot nor an exported encoder.

    Raises:
        UserError: names the nearest.
    """
    if not (path / ABOUT).is_file():
        find_snapshot(path)


def check_order(source: Path, catalogue: Path, command: str) -> None:
    """Refuse a model that is none; a message of its own where the catalogue is the model.

    Args:
        source: given as the model.
        catalogue: given as the folder of music.
        command: that takes the two in this order.

    Raises:
        UserError: names the nearest, or the right order.
    """
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
