"""The one configuration tree of an experiment; every section lives beside the code that owns it."""

from dataclasses import dataclass, field

from cluster.resources import ResourcesConfig
from cluster.settings import Config
from cluster.tracking_config import TrackingConfig
from data_shards.data_config import DataConfig
from trainers.augment.parameters import AugmentConfig
from trainers.frontend import FrontendConfig
from trainers.losses.semi_supervised import LossConfig
from trainers.model import EncoderConfig, HeadConfig
from trainers.step import OptimConfig
from trainers.views import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Where a run lives and how often it saves itself."""

    dir: str = "outputs/pretrain"
    """Folder of the run: snapshots/, metrics.jsonl. The same folder and command resume it."""
    snapshot_every: int = 1000
    """Steps between snapshots; the last step is always saved."""
    keep: int = 3
    """Newest snapshots that stay on disk."""
    report_every: int = 10
    """Steps between reports to Ray and to the person watching."""

    def __post_init__(self) -> None:
        for name in ("snapshot_every", "keep", "report_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"run.{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Config):
    """Everything that decides a pretraining run."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    """Decides first weights, sampling and augmentation."""
    init_from: str | None = None
    """Snapshot whose encoder and head a new run starts from."""

    def __post_init__(self) -> None:
        if self.frontend.kind != self.encoder.reads:
            raise ValueError(
                f"encoder.name={self.encoder.name} reads {self.encoder.reads}, frontend.kind is {self.frontend.kind}; "
                f"set frontend.kind={self.encoder.reads}"
            )
        if (self.encoder.batch_norm == "micro") != (self.optim.micro_batch is not None):
            raise ValueError(
                "encoder.batch_norm=micro and optim.micro_batch=CLIPS go together: the statistics of a micro-batch are "
                "the method, and must not depend on the number of workers"
            )

    @property
    def micro_rows(self) -> int | None:
        """Rows of a micro-batch: its clips with all their views."""
        return None if self.optim.micro_batch is None else self.optim.micro_batch * self.views.count


MAY_DIFFER_ON_RESUME = (
    "optim.steps",
    "resources.",
    "run.",
    "tracking.",
    "init_from",
    "data.labelled",
    "data.unlabelled",
    "data.cache",
    "data.cache_gb",
    "data.checksums",
    "data.max_replaced",
    "loss.exchange",
    "loss.tile",
    "views.chunk",
)
"""Dotted keys, or prefixes ending in a dot, that a resumed run may change; all else decides the numbers. Shards may
have moved: their manifest hash says whether they are the same."""
