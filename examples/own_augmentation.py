"""An augmentation of your own: SpecAugment's time and frequency masks (Park et al. 2019, arXiv:1904.08779).

    counterpoint pretrain conf/pretrain/quickstart.yaml data.labelled=DIR data.unlabelled=DIR \
        'augment.extra=[{"name": "own_augmentation:SpecAugment", "p": 0.5, "settings": {"frames": 20}}]'

It draws nothing itself: it is handed uniform numbers keyed by (seed, step, slot, view), so that any number of ranks,
before and after any kill, sees the same masks.
"""

import torch
from torch import Tensor


class SpecAugment:
    """One mask of frames and one of bands a row.

    Args:
        frames: greatest width of the mask in time.
        bands: greatest width of the mask in frequency.
    """

    reads = "spectrogram"
    num_draws = 4

    def __init__(self, frames: int = 20, bands: int = 8) -> None:
        self.frames, self.bands = frames, bands

    def __call__(self, mel: Tensor, uniform: Tensor) -> Tensor:
        """Mask log-mel rows (n, F, S) by numbers (n, 4) in (0, 1)."""
        time = span(uniform[:, 0], uniform[:, 1], self.frames, mel.shape[2])
        frequency = span(uniform[:, 2], uniform[:, 3], self.bands, mel.shape[1])
        return mel.masked_fill(time[:, None, :] | frequency[:, :, None], 0.0)


def span(width: Tensor, start: Tensor, greatest: int, length: int) -> Tensor:
    """A mask (n, length) that is True from a drawn start on, for a drawn width of at most ``greatest``."""
    widths = (width * (greatest + 1)).long()[:, None]
    starts = (start[:, None] * (length - widths).clamp(min=0)).long()
    place = torch.arange(length, device=width.device)[None]
    return (place >= starts) & (place < starts + widths)
