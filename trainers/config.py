"""The one configuration tree of an experiment; every section lives beside the code that owns it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cluster.entry_points import is_entry_point
from cluster.machine.resources import ResourcesConfig
from cluster.settings import Config, leaf_paths
from cluster.tracking.config import TrackingConfig
from cluster.validation.messages import nearest
from data_shards.format.records import SAMPLE_RATE
from data_shards.sampling.config import DataConfig
from trainers.augment.parameters import AugmentConfig
from trainers.checks.combinations import check_towers, check_variants
from trainers.checks.constant_loss import check_settings_can_learn
from trainers.encoders.config import EncoderConfig, HeadConfig
from trainers.frontends.config import FrontendConfig, least_samples, num_bands
from trainers.losses.config import OUTPUTS, LossConfig
from trainers.state.optim_config import OptimConfig
from trainers.text.config import TextConfig
from trainers.views.config import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Where a run lives and how often it saves itself."""

    dir: str = "outputs/pretrain"
    """Folder of the run: snapshots/, metrics.jsonl. The same folder and command resume it."""
    snapshot_every: int = 1000
    """Steps between snapshots; the last step is always saved."""
    keep: int = 3
    """Newest snapshots that stay on disk."""
    background_snapshots: bool = True
    """Write snapshots in a thread while training goes on, from a copy in host memory of the state's size. False: every
    step waits until its snapshot is on disk."""
    report_every: int = 10
    """Steps between reports to Ray and to the person watching."""
    quick_every: int = 0
    """Steps between quick nearest-neighbour scores of the labelled set's split ``valid``: metric ``quick/knn``, and
    ``snapshots/best`` beside ``last``. 0: none."""
    quick_clips: int = 256
    """Clips that the quick score looks at, at most."""
    may_differ: tuple[str, ...] = ()
    """Dotted keys, or prefixes that end in a dot, that a resume may change though they decide the numbers;
    ``data.manifest`` for other shards."""

    def __post_init__(self) -> None:
        self.require(">= 1", "snapshot_every", "keep", "report_every")
        self.require(">= 0", "quick_every")
        self.require(">= 2", "quick_clips")
        if self.quick_every and self.snapshot_every % self.quick_every:
            raise ValueError(
                f"run.snapshot_every={self.snapshot_every} must be a multiple of run.quick_every={self.quick_every}: "
                "only a snapshot with a score can be the best"
            )


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Config):
    """Everything that decides a pretraining run."""

    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    text: TextConfig = field(default_factory=TextConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    """Decides first weights, sampling and augmentation."""
    init_from: str | None = None
    """Snapshot whose encoder and head a new run starts from; of an exported encoder, or a model that ships by its name
    (open-mel), the encoder, and a text tower where both have one."""

    def __post_init__(self) -> None:
        self._check_may_differ()
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be >= 0 and < 2^63, got {self.seed}")
        read = self.encoder.frontends
        gives_what_is_read = "wave" not in read if self.frontend.is_own else self.frontend.kind in read
        if not self.encoder.is_own and not gives_what_is_read:
            raise ValueError(
                f"encoder.name={self.encoder.name} reads {', '.join(read)}, frontend.kind is {self.frontend.kind}; "
                f"set frontend.kind={read[0]}"
            )
        if self.views.placement == "pool" and self.resources.num_workers == 0:
            raise ValueError(
                "views.placement=pool needs Ray, whose actors make the views; set resources.num_workers >= 1, or "
                "views.placement=trainer"
            )
        if (self.encoder.batch_norm == "micro") != (self.optim.micro_batch is not None):
            raise ValueError(
                "encoder.batch_norm=micro and optim.micro_batch=CLIPS go together: the statistics of a micro-batch are "
                "the method, and must not depend on the number of workers"
            )
        if self.optim.channels_last is True and "wave" in self.encoder.frontends:
            raise ValueError(
                f"optim.channels_last is for 2-d convolutions; encoder.name={self.encoder.name} has none, leave it out"
            )
        if not self.encoder.is_own and not self.frontend.is_own:
            self._check_size()
        check_variants(self)
        check_towers(self)
        check_settings_can_learn(self)
        if OUTPUTS.get(self.loss.objective, "projections") == "projections":
            return
        if self.data.b_s != 1:
            raise ValueError(
                f"loss.objective={self.loss.objective} learns from labels alone; set data.b_s=1, got {self.data.b_s}"
            )
        if self.head.width is not None:
            raise ValueError(
                f"loss.objective={self.loss.objective} has an output a tag of data.vocabulary; leave head.width out"
            )

    def _check_may_differ(self) -> None:
        known = [*leaf_paths(ExperimentConfig), MANIFEST]
        for rule in self.run.may_differ:
            if not any(matches(rule, key) for key in known):
                raise ValueError(f"run.may_differ: unknown key {rule}{nearest(rule, known)}")

    def _check_size(self) -> None:
        """Refuse views that the encoder would pool down to nothing."""
        name, samples = self.encoder.name, self.views.samples
        *bands, least = self.encoder.shortest
        if bands and num_bands(self.frontend) < bands[0]:
            raise ValueError(
                f"encoder.name={name} reads at least {bands[0]} bands, got frontend.num_mels={self.frontend.num_mels}"
            )
        what = f"{least} frames of {num_bands(self.frontend)} bands" if bands else f"{least} samples"
        least = least_samples(self.frontend, SAMPLE_RATE, least) if bands else least
        if samples < least:
            raise ValueError(
                f"views.samples={samples} is too short: encoder.name={name} reads at least {what}; take views.samples "
                f">= {least}"
            )

    def own_parts(self) -> dict[str, str]:
        """Entry points of the user's own code by the key that names them."""
        named = {
            "encoder.name": self.encoder.name,
            "frontend.kind": self.frontend.kind,
            "loss.objective": self.loss.objective,
            "text.encoder": self.text.encoder,
        }
        named |= {f"augment.extra.{place}.name": extra.name for place, extra in enumerate(self.augment.extra)}
        return {key: name for key, name in named.items() if is_entry_point(name)}

    @property
    def reads_texts(self) -> bool:
        """Whether a step reads texts of its clips."""
        return self.loss.objective == "music_text"

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
    "augment.kernel",
    "loss.exchange",
    "loss.kernel",
    "loss.tile",
    "text.cache",
    "views.chunk",
    "views.placement",
    "views.pool_workers",
    "views.pool_gpus",
    "optim.checkpoint_blocks",
)
"""Dotted keys, or prefixes ending in a dot, that a resumed run may change; all else decides the numbers. Shards may
have moved: their manifest hash identifies them."""


MANIFEST = "data.manifest"
"""What `RunConfig.may_differ` calls the shards' hash, which is no setting."""


def without_ray_train(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment in the process that starts it, if it is of one worker and nothing else in it needs Ray.

    A trial or a row of a study is a process of its own already; Ray Train would start two more for the same numbers.
    """
    resources = config.resources
    needs_ray = resources.num_workers != 1 or resources.min_workers is not None or config.views.placement == "pool"
    return config if needs_ray else replace(config, resources=replace(resources, num_workers=0))


def may_differ_on_resume(key: str, rules: Sequence[str] = ()) -> bool:
    """Whether a resumed run may have another value of a dotted key, or of ``data.manifest``; ``rules`` are those of
    ``run.may_differ``.

    >>> may_differ_on_resume("resources.num_workers"), may_differ_on_resume("loss.temperature")
    (True, False)
    >>> may_differ_on_resume("loss.temperature", rules=["loss."])
    True
    """
    return any(matches(rule, key) for rule in (*MAY_DIFFER_ON_RESUME, *rules))


def matches(rule: str, key: str) -> bool:
    """Whether a rule, a dotted key or a prefix that ends in a dot, holds for a key."""
    return key.startswith(rule) if rule.endswith(".") else key == rule
