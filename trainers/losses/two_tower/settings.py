"""Settings of the two-tower loss. No torch here: a wrong key ``loss.*`` is refused before torch is imported."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from trainers.losses.contrastive.settings import ExchangeName, check_choice, check_number, whole_number

PairsName = Literal["softmax", "sigmoid"]
SameText = Literal["positive", "ignored", "negative"]
Scope = Literal["all", "own"]
_CHOICES: dict[str, Any] = {"pairs": PairsName, "same_text": SameText, "scope": Scope, "exchange": ExchangeName}


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """The settings of `two_tower_loss`, where they are documented, in range."""

    pairs: PairsName = "softmax"
    same_text: SameText = "positive"
    scope: Scope = "all"
    audio_share: float = 0.5
    tile: int = 512
    exchange: ExchangeName = "gather"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        object.__setattr__(self, "tile", whole_number("tile", self.tile))
        check_number("audio_share", self.audio_share)
        if not 0 <= self.audio_share <= 1:
            raise ValueError(f"audio_share must be from 0 to 1, got {self.audio_share:g}")
        if self.pairs == "sigmoid" and self.audio_share != TowerSettings.audio_share:
            raise ValueError("audio_share is a setting of pairs=softmax: a pair of pairs=sigmoid has no anchor")


def start_of_bias(num_texts: int) -> float:
    """Where the bias of ``pairs=sigmoid`` starts: log 1/(texts − 1), at which the one positive of each audio row and
    its negatives weigh about as much (open_clip issue 650: at N = 96 it is −4.55, where −10 is for N of 22,000).

    >>> round(start_of_bias(96), 2), start_of_bias(1)
    (-4.55, 0.0)
    """
    return -math.log(num_texts - 1) if num_texts > 2 else 0.0
