"""Names of the files of a set, and whether a folder holds one, found without importing numpy and pyarrow."""

from pathlib import Path

from cluster.files.outputs import did_you_mean
from cluster.settings import UserError

INDEX_NAME, MANIFEST_NAME = "index.arrow", "manifest.json"
PARQUET_NAME = "index.parquet"
"""The clips for other programs; the index of a set that 0.1 built, which ``counterpoint shards index`` converts."""


def no_set(folder: Path) -> str:
    """Why a folder is no set of shards, and the nearest that is; empty where it looks like one."""
    missing = [name for name in (MANIFEST_NAME, INDEX_NAME) if not (folder / name).is_file()]
    if not missing or (missing == [INDEX_NAME] and (folder / PARQUET_NAME).is_file()):
        return ""
    why = f"no {missing[0]} there" if folder.is_dir() else "no such folder"
    return (
        f"not a set of shards ({why}){did_you_mean(folder, MANIFEST_NAME) or '; make one: counterpoint shards build'}"
    )


def check_set(key: str, uri: str) -> None:
    """Refuse a local place that holds no set; a URI is checked when it is read. The UserError names the nearest set."""
    scheme, sign, path = uri.partition("://")
    if sign and scheme != "file":
        return
    problem = no_set(Path(path if sign else uri).expanduser())
    if problem:
        raise UserError(f"{key}={uri}: {problem}")
