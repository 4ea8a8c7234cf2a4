"""Keys ``optim.*``: how weights move. No torch here: a wrong key is refused before torch is imported."""

from dataclasses import dataclass
from typing import Literal

from cluster.settings import Config


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """Adam as in the paper: 1e-4, 200,000 steps (arXiv:2407.13840)."""

    steps: int = 200_000
    """Optimisation steps of the whole run."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled (AdamW) when above 0; of matrices and kernels alone, never of biases, norms and the temperature."""
    warmup_steps: int = 0
    """Linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: keep the rate, or let it fall to 0 at the last step along a cosine."""
    max_grad_norm: float | None = None
    """Clip the global gradient norm to this; none: no clipping."""
    micro_batch: int | None = None
    """Clips whose activations a rank keeps at once: gradient caching, exact, for a second forward pass. Goes with
    ``encoder.batch_norm=micro``, whose statistics are those of so many clips; none: all at once."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder's and head's products (autocast); weights, loss and optimiser stay float32."""
    channels_last: bool | Literal["auto"] = False
    """Keep the images of 2-d convolutions with channels last in memory: Mel-CNN took 0.63 times the CPU time. It does
    not exist for the 1-d convolutions of encoders that read waveforms; ``auto`` is for either kind."""
    compile: bool = False
    """Let torch.compile fuse the encoder and head; it needs a C++ compiler and minutes at the start. SampleCNN on a CPU
    has faster kernels of its own."""
    ema_decay: float | None = None
    """Keep a running mean of the weights that forgets at this rate a step, in (0, 1); evaluation then takes it."""
    checkpoint_blocks: int = 0
    """First blocks of the encoder whose activations are computed again in backward instead of kept."""

    def __post_init__(self) -> None:
        self.require(">= 1", "steps", "micro_batch")
        self.require("> 0", "learning_rate", "max_grad_norm")
        self.require(">= 0", "weight_decay", "warmup_steps", "checkpoint_blocks")
        self.require("in (0, 1)", "ema_decay")
        if self.compile and self.checkpoint_blocks:
            raise ValueError("compile decides itself what is computed again; leave checkpoint_blocks out")
