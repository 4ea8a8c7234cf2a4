"""The names of the models that ship with this release, and where their files are.

A model is what `counterpoint export --half --no-programs` writes, in a folder of this package. `models.json` beside
this module has for each name its folder, its licence, and the hash that its checksums must have: a damaged file is
found even where its own checksum was changed with it. No torch here: a wrong name is refused at once.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cluster.validation.messages import nearest

MODELS = Path(__file__).parent
TABLE = MODELS / "models.json"
REMEDY = "install Counterpoint again (pip install --force-reinstall counterpoint-audio; git checkout trainers/models)"
"""Of a damaged model."""


@dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """One model that ships."""

    name: str
    folder: Path
    hash: str
    """Of its checksums, which verify every file: `EncoderFiles.hash`."""
    summary: str
    """One line."""
    licence: str
    """Of the weights."""


@lru_cache
def shipped_models() -> dict[str, ShippedModel]:
    """All models by name."""
    if not TABLE.is_file():
        return {}
    listed = json.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: ShippedModel(name=name, folder=MODELS / row.pop("folder"), **row) for name, row in sorted(listed.items())
    }


def known_models(name: str) -> str:
    """The names there are, for the refusal of another one, with the nearest."""
    names = list(shipped_models())
    return f"{', '.join(names) or 'none'}{nearest(name.lower().replace('_', '-'), names)}"
