"""What is asked of a frozen encoder: tasks as data, so that a preset of conf/evaluation names every protocol."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cluster.entry_points import check_name, is_entry_point
from cluster.settings import Config
from evaluation.text_task import TEXT_KINDS, TextTask
from trainers.augment.parameters import CORRUPTION_NAMES, AugmentConfig

KINDS = {
    "tags": "evaluation.tasks.tags:Tags",
    "class": "evaluation.tasks.classes:Classes",
    "key": "evaluation.tasks.key:Key",
    "tempo": "evaluation.tasks.tempo:Tempo",
    "number": "evaluation.tasks.number:Number",
    "same_track": "evaluation.tasks.same_track:SameTrack",
    **TEXT_KINDS,
}
"""Kinds of tasks, imported when a task is read; ``kind`` takes a ``module:Class`` of your own as well."""


@dataclass(frozen=True, kw_only=True)
class Task(TextTask):
    """One target column and how it is evaluated. The defaults are those of arXiv:2407.13840, §4.3."""

    column: str = "captions"
    """Target column of the shards; ``artist`` names the index's own column. Tasks about captions need none."""
    kind: str
    """tags: a multilabel column; class: one class a clip, or whole numbers; key: "C# minor"; tempo: beats a minute;
    number: any value, with R²; same_track: of ``column: track``, whether the nearest clips are of the query's own
    track; text_retrieval, zero_shot, attribute_swap, partial_query: clips and texts in the space of a text tower
    (docs/music_and_text.md); or ``module:Class``, a kind of your own (`evaluation.tasks.kind.TaskKind`)."""
    probe: bool = False
    """Train heads on the train split, stop on valid, report test."""
    retrieval: bool = False
    """Nearest neighbours among the test clips."""
    optional: bool = False
    """A set without the column leaves the task out, and the report names it; otherwise that is an error."""
    untagged: bool = False
    """Clips without any tag of the column are clips of no tag, as in MagnaTagATune's 188; else they are unknown."""
    vocabulary: tuple[str, ...] = ()
    """Tags or classes in their frozen order; empty takes those of the shards. A set with others is refused."""
    head: Literal["mlp", "linear"] = "mlp"
    """mlp: Linear E→hidden, ReLU, Linear hidden→n; linear: Linear E→n. Neither has a bias."""
    hidden: int = 512
    """Width of the hidden layer, > 0."""
    patience: int = 15
    """Epochs without a better validation loss before a head stops, > 0."""
    max_epochs: int = 20_000
    """Epochs at most, > 0: a bound, no part of the protocol; a report names the heads that it stopped."""
    dropout: float = 0.1
    """Share of the head's input (linear) or hidden units (mlp) that is dropped in training, in [0, 1)."""
    weight_decay: float = 1e-6
    """Adam's L2 term, ≥ 0."""
    learning_rate: float = 3e-4
    """Adam's step, > 0."""
    batch: int = 64
    """Clips a step, > 0."""
    standardise: bool = False
    """Embeddings to zero mean and unit deviation of the train split; the paper does not."""
    frozen: str | None = None
    """File of an earlier report's ``splits/``: its clips, splits and vocabulary, or an error."""
    published: str | None = None
    """Protocol of conf/evaluation/published whose published values are shown beside this task's."""

    def __post_init__(self) -> None:
        check_name("kind", self.kind, KINDS, {})
        if self.kind in TEXT_KINDS and (self.probe or self.retrieval):
            raise ValueError(f"kind={self.kind} has neither probe nor neighbours; leave probe and retrieval out")
        if self.kind in KINDS and self.kind not in TEXT_KINDS and not (self.probe or self.retrieval):
            raise ValueError("a task needs probe: true, retrieval: true or both")
        if self.column == "captions" and self.kind in set(KINDS) - set(TEXT_KINDS) | {"zero_shot"}:
            raise ValueError(f"kind={self.kind} needs column, the name of a column of labels")
        self.check_texts(self.kind)
        if self.untagged and self.retrieval:
            raise ValueError("untagged is for probes: a clip of no tag has no neighbours to share one")
        self.require("> 0", "hidden", "patience", "max_epochs", "batch", "learning_rate")
        self.require("in [0, 1)", "dropout")
        self.require(">= 0", "weight_decay")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError("vocabulary has a duplicate tag")


@dataclass(frozen=True, kw_only=True)
class EvaluationData(Config):
    """What is embedded."""

    shards: str | None = None
    """Folder or URI of the shards, with their index. Needed."""
    cache: str | None = None
    """Folder for copies of remote shards; needed for a URI."""
    cache_gb: float = 50.0
    """The copies are kept below this size, GB, > 0."""

    def __post_init__(self) -> None:
        self.require("> 0", "cache_gb")


@dataclass(frozen=True, kw_only=True)
class Chunking(Config):
    """How a clip becomes one embedding: the mean over non-overlapping chunks of the encoder's length."""

    min_tail: float = 0.5
    """A last chunk with at least this share of its samples is padded with zeros, a shorter one left out; in (0, 1]."""
    aggregate: Literal["embeddings", "probabilities", "logits"] = "embeddings"
    """What is averaged over a test clip's chunks. Heads are trained on clips' mean embeddings in all three."""
    resample: bool = False
    """Shards of another rate than an encoder's are resampled (soxr HQ) to it; otherwise they are refused."""

    def __post_init__(self) -> None:
        self.require("in (0, 1]", "min_tail")


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(Config):
    """Who embeds: this process, or Ray workers; the job's own cluster, RAY_ADDRESS, or a local one."""

    num_workers: int = 0
    """Ray workers, ≥ 0; 0 = this process, without Ray. Every number gives the same embeddings."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """A GPU for every worker: yes, no, or auto = where there are at least as many as the workers need."""
    cpus_per_worker: float = 1.0
    """Cores Ray reserves for a worker, and its threads, > 0."""
    gpus_per_worker: float = 1.0
    """GPUs Ray reserves for a worker that uses one, > 0."""

    def __post_init__(self) -> None:
        self.require(">= 0", "num_workers")
        self.require("> 0", "cpus_per_worker", "gpus_per_worker")


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig(Config):
    """The clustered paired bootstrap."""

    resamples: int = 1000
    """Resamples of the test set, ≥ 100."""
    level: float = 0.95
    """Coverage of the percentile interval, in (0, 1)."""
    cluster: Literal["artist", "track"] = "artist"
    """What is drawn with replacement: artists (tracks where the artist is unknown), or tracks."""

    def __post_init__(self) -> None:
        self.require(">= 100", "resamples")
        self.require("in (0, 1)", "level")


class AtEvaluationQuality:
    """Marks a chain whose tree means evaluation where it sets no quality; a chain's own default is training."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        def expand(tree: Any) -> Any:
            return {"quality": "evaluation", **tree} if isinstance(tree, dict) else tree

        return {
            "type": "function-before",
            "function": {"type": "no-info", "function": expand},
            "schema": handler(source),
        }


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(Config):
    """Probes trained clean, tested on corrupted audio; nothing is measured unless something is asked for."""

    severities: tuple[float, ...] = ()
    """Strengths of the chain, ≥ 0; 2 is the one below. The paper's are 0, 1, 2, 3, 4."""
    corruptions: tuple[str, ...] = ()
    """Novel corruptions by name: chorus, distortion, splice_out, reverb, time_stretch, compression, bitcrush."""
    augment: Annotated[AugmentConfig, AtEvaluationQuality()] = field(
        default_factory=lambda: AugmentConfig(quality="evaluation")
    )
    """The chain of severity 2, at evaluation quality unless it sets ``quality`` itself."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.corruptions) - set(CORRUPTION_NAMES))
        if unknown:
            raise ValueError(f"corruptions must be of {', '.join(CORRUPTION_NAMES)}, got {', '.join(unknown)}")
        if any(severity < 0 for severity in self.severities):
            raise ValueError(f"severities must be ≥ 0, got {self.severities}")

    @property
    def enabled(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.severities or self.corruptions)


@dataclass(frozen=True, kw_only=True)
class EquivarianceConfig(Config):
    """Cosine distance against pitch and tempo; nothing is measured unless steps are given."""

    semitones: tuple[float, ...] = ()
    """Transpositions."""
    rates: tuple[float, ...] = ()
    """Tempo ratios, > 0; 1.25 is a quarter faster."""
    clips: int = 200
    """Tracks of a split at most, ≥ 2."""
    probe: bool = False
    """Also predict the transformation from the difference of two embeddings: a linear map fitted on train tracks."""

    def __post_init__(self) -> None:
        if any(rate <= 0 for rate in self.rates):
            raise ValueError(f"rates must be > 0, got {self.rates}")
        if self.probe and not self.enabled:
            raise ValueError("probe needs semitones, rates or both to predict")
        for name in ("semitones", "rates"):
            if self.probe and len(set(getattr(self, name))) == 1:
                raise ValueError(f"probe needs two different {name} to predict, got {getattr(self, name)}")
        self.require(">= 2", "clips")

    @property
    def enabled(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.semitones or self.rates)


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(Config):
    """t-SNE of the test clips; none without a task."""

    task: str | None = None
    """Task whose classes colour the points."""
    midi: bool = False
    """The classes are MIDI notes: pitch class as colour, octave as size."""
    perplexity: float = 30.0
    """Neighbours that count, > 0; fewer in a small set."""
    clips: int = 2000
    """Points at most, ≥ 5."""

    def __post_init__(self) -> None:
        if self.midi and self.task is None:
            raise ValueError("midi needs a task to colour the points by")
        self.require("> 0", "perplexity")
        self.require(">= 5", "clips")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """One evaluation: shards, tasks, and how sure the report is."""

    data: EvaluationData = field(default_factory=EvaluationData)
    tasks: dict[str, Task] = field(default_factory=dict)
    """Name → task; metrics are called ``name/metric``."""
    chunking: Chunking = field(default_factory=Chunking)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    robustness: RobustnessConfig = field(default_factory=RobustnessConfig)
    equivariance: EquivarianceConfig = field(default_factory=EquivarianceConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    against: dict[str, str] = field(default_factory=dict)
    """Other snapshots by name, evaluated beside this one on the same resamples."""
    claims: tuple[str, ...] = ()
    """Metrics named beforehand; p-values of their differences are adjusted as one family (Holm)."""
    spaces: tuple[str, ...] = ()
    """Spaces of the encoder that are evaluated beside its whole embedding, as models ``trained/SPACE`` from the same
    pass: of LOEV++ invariant and its effects (pitch, stretch), of LOEV embedding and the outputs of its heads."""
    ks: tuple[int, ...] = (1, 3, 5, 10)
    """Neighbourhood sizes of the retrieval tasks, each > 0."""
    exclude: Literal["track", "artist"] = "track"
    """Clips of the query's own track (or artist) are never its neighbours."""
    seeds: int = 5
    """Heads trained per probe; the value is their mean. > 0."""
    seed: int = 0
    """Root of every draw: head weights, orders, dropout, resamples."""
    batch: int = 64
    """Chunks an encoder sees at once, > 0."""
    device: str = "cpu"
    """Of the heads, and of the encoders unless Ray workers embed: cpu, cuda or cuda:N."""
    resources: WorkersConfig = field(default_factory=WorkersConfig)
    split: Literal["test", "valid"] = "test"
    """Split that is reported. valid: to choose by, as a sweep does; heads then stop on a fifth of the train artists,
    of one artist's tracks where there is no other."""
    cache: str | None = None
    """Folder of embedding tables; by default ``embeddings`` in the output folder."""

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) <= 0 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers > 0, got {self.ks}")
        self.require("> 0", "seeds", "batch")
        if len(set(self.spaces)) < len(self.spaces):
            raise ValueError(f"spaces names one twice: {', '.join(self.spaces)}")
        extras = (self.robustness.severities, self.robustness.corruptions, self.projection.task)
        if self.split == "valid" and any((*extras, self.equivariance.semitones, self.equivariance.rates)):
            raise ValueError("split=valid is for tasks; robustness, equivariance and projection are of test clips")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be cpu, cuda or cuda:N, got {self.device}")
        if self.projection.task is not None and self.projection.task not in self.tasks:
            near = difflib.get_close_matches(self.projection.task, self.tasks, n=1) or self.tasks
            raise ValueError(f"projection.task={self.projection.task} is not one of the tasks; try {', '.join(near)}")
        taken = sorted({"trained", "untrained", "random", "constant"} & set(self.against))
        if taken:
            raise ValueError(f"against cannot be called {', '.join(taken)}")
        for name in (*self.tasks, *self.against):
            if not name or not all(c.isalnum() or c in "_-" for c in name):
                raise ValueError(f"a name is of letters, digits, _ and -, got {name!r}")

    def own_parts(self) -> dict[str, str]:
        """Entry points of the user's own code by the key that names them."""
        named = {f"tasks.{name}.kind": task.kind for name, task in self.tasks.items()}
        named |= {f"against.{name}": source for name, source in self.against.items()}
        return {key: name for key, name in named.items() if is_entry_point(name)}
