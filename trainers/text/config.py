"""Keys ``text.*``: the text tower. No torch here: a wrong key is refused before torch is imported."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.entry_points import check_name, is_entry_point
from data_shards.text.config import TextViewsConfig

TEXT_ENCODERS = ("words", "bundled", "folder")
"""Encoders that need no code of the user's."""
Pooling = Literal["mean", "cls", "last", "eos"]
Trained = Literal["locked", "projection", "top", "all"]
_TRAINED = re.compile(r"locked|projection|all|top:[1-9]\d{0,3}")


@dataclass(frozen=True, kw_only=True)
class TextConfig(TextViewsConfig):
    """Which text a step reads, which network embeds it, and what of that is trained."""

    encoder: str = "bundled"
    """words: a trainable bag of hashed words, which needs no file; bundled: MiniLM, from the extra
    ``counterpoint-audio[text]``; folder: the weights in ``text.path``; or ``module:factory``, a network of your own
    (docs/music_and_text.md)."""
    path: str | None = None
    """Folder of encoder=folder: ``config.json``, ``model.safetensors`` and the vocabulary, as `save_pretrained` and
    sentence-transformers write them. Never the name of a model on a hub."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a network of your own, checked against its factory's signature."""
    trained: str | None = None
    """locked: nothing of the text tower; projection: its projection alone; top:N: the last N layers as well; all.
    Unless given: all for words, projection for the others. Locked layers stay in evaluation mode."""
    rate: float = 0.1
    """Learning rate of trained layers below the projection, as a share of ``optim.learning_rate``."""
    max_tokens: int = 64
    """Tokens read of a text (words: words); the rest is cut off, and texts that are cut are counted."""
    hidden: int = 512
    """Width of the projection's hidden layer; 0 is a linear projection."""
    pooling: Pooling | None = None
    """How tokens become one vector, for encoder=folder: unless given, as ``1_Pooling/config.json`` says, else mean."""
    prefix: str = ""
    """Put before every text: ``"query: "`` for E5."""
    cache: str | None = None
    """Folder where vectors of an encoder that is not trained are kept and shared by processes and runs; null keeps them
    in memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("encoder", self.encoder, TEXT_ENCODERS, self.settings)
        if self.trained is not None and not _TRAINED.fullmatch(self.trained):
            raise ValueError(f"trained must be locked, projection, top:N or all, got {self.trained!r}")
        if (self.path is None) == (self.encoder == "folder"):
            raise ValueError(
                "encoder=folder needs path, the folder of its weights; set text.path=DIR"
                if self.path is None
                else f"path is a setting of encoder=folder; leave it out for {self.encoder}"
            )
        if self.pooling is not None and self.encoder != "folder":
            raise ValueError(f"pooling is a setting of encoder=folder; leave it out for {self.encoder}")
        if self.encoder == "words" and self.trains == "top":
            raise ValueError("trained=top:N needs an encoder with layers; encoder=words has none: set trained=all")
        if not self.rate > 0:
            raise ValueError(f"rate must be > 0, got {self.rate}; trained=projection keeps the layers fixed")
        self.require("in [4, 8192]", "max_tokens")
        if self.hidden < 0:
            raise ValueError(f"hidden must be >= 0, got {self.hidden}; 0 is a linear projection")

    @property
    def is_own(self) -> bool:
        """Whether the network is the user's."""
        return is_entry_point(self.encoder)

    @property
    def trains(self) -> Trained:
        """What is trained, without the number of layers."""
        given = self.trained or ("all" if self.encoder == "words" else "projection")
        found: Trained = "top" if given.startswith("top:") else given  # type: ignore[assignment]
        return found

    @property
    def top_layers(self) -> int:
        """N of ``trained=top:N``; 0 otherwise."""
        return int((self.trained or "").removeprefix("top:")) if self.trains == "top" else 0
