"""One optimisation step: views → projections → exact loss of the global batch → masked update, and its metrics.

Shape suffixes: N views of this rank (view-major: row m·clips + b), D width of the head's output, E encoder width.
"""

import logging
import math
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from cluster.machine.resources import multiplies_bfloat16
from cluster.settings import UserError, flatten, to_tree
from data_shards.format.records import SAMPLE_RATE
from trainers.augment.chain import obstacle as views_obstacle
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.distributed.batch_norm import running_statistics
from trainers.distributed.gradient_cache import backward_in_chunks
from trainers.draws import keyed_draws
from trainers.encoders.config import PROJECTION_WIDTH
from trainers.frontends.frontend import build_frontend
from trainers.losses.contrastive.triton.launch import obstacle as losses_obstacle
from trainers.losses.music_text import MusicTextLoss
from trainers.losses.projected import LossResult, Projected
from trainers.model import ContrastiveModel, Network, build_model, checkpoint_first
from trainers.monitor.metrics import PhaseClock, alignment_and_uniformity, alignment_of, effective_rank, watched
from trainers.state.optim import WeightAverage, build_optimizer, learning_rate, set_rate
from trainers.two_tower import (
    TowerInput,
    TowerProjector,
    build_towers,
    check_locked,
    example_input,
    has_head,
    has_towers,
    load_audio_tower,
    read_step,
)
from trainers.views.views import Views

if TYPE_CHECKING:  # a machine that only measures steps needs no safetensors
    from trainers.state.snapshot import Snapshot


_log = logging.getLogger(__name__)


class StepResult(NamedTuple):
    """Metrics of one step."""

    metrics: dict[str, Tensor]
    """0-dim tensors on the device; the mean over ranks of each is the metric of the global batch."""
    clock: PhaseClock
    """Phases encoder (forward and backward), loss, optimiser, metrics."""
    rate: float
    """Learning rate."""


class StepTrainer:
    """All that training changes: the model, its optimiser, and the running mean of its weights when one is kept.
    Raises UserError if machine or encoder does not allow compiling, or the encoder has too few blocks to checkpoint.
    """

    def __init__(self, config: ExperimentConfig, *, num_tags: int, device: torch.device) -> None:
        check_kernels(config, num_tags=num_tags, device=device)
        self.optim, self.num_views, self.device = config.optim, config.views.count, device
        self.own_seed = config.seed if config.own_parts() else None
        model = self.model = _build(config, num_tags).to(device)
        if config.optim.channels_last:
            model.projector.encoder.to(memory_format=torch.channels_last)
        model.projector.bfloat16_products = config.optim.precision == "bfloat16"
        if model.projector.bfloat16_products and device.type == "cpu" and not multiplies_bfloat16():
            _log.warning("optim.precision=bfloat16: this CPU emulates it, many times slower; float32 is faster here")
        self.optimizer = build_optimizer(model, config.optim, {"projector.text.": config.text.rate})
        decay = config.optim.ema_decay
        self.average = None if decay is None else WeightAverage(model, decay)
        projector = _compiled(model.projector, device) if config.optim.compile else model.projector
        with running_statistics(model, "hold"):
            self.network = collectives.data_parallel(projector, _example(config, model, device))

    def load_weights(self, snapshot: "Snapshot") -> None:
        """Start from the weights of a snapshot. Raises UserError if they are those of another network."""
        _load(self.model, snapshot, initial=True)

    def resume(self, snapshot: "Snapshot") -> None:
        """Go on where a snapshot was taken."""
        _load(self.model, snapshot)
        snapshot.load_optimizer(self.optimizer, self.model)
        if self.average:
            self.average.load(snapshot.evaluation_state())

    def evaluated(self) -> tuple[nn.Module, dict[str, Tensor] | None]:
        """The encoder, and the weights to evaluate it with where they are not its own."""
        encoder = self.model.projector.encoder
        if self.average is None:
            return encoder, None
        prefix = "projector.encoder."
        means = self.average.state.items()
        return encoder, {name.removeprefix(prefix): mean for name, mean in means if name.startswith(prefix)}

    def train_step(self, views: Views, step: int, *, log_details: bool = False) -> StepResult:
        """Forward, backward and update; of the loss only the number of labelled rows is read back to the host.

        A loss or gradient that is not finite leaves weights and optimiser untouched (fault 37); the caller sees
        ``finite`` = 0 one step later and stops.

        Args:
            views: of this rank.
            step: counted from 0; it decides the rate.
            log_details: compute the effective rank too, whose eigenvalues make a GPU wait.
        """
        rate = learning_rate(step, self.optim)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        clock = PhaseClock(self.device)
        with self._draws(step):
            loss, metrics, z_ND, h_NE = self._backward(views, clock)
        finite = self._update(loss, step, metrics)
        clock.mark("optimiser")
        with torch.no_grad():
            metrics |= self._alignments(z_ND, views)
            if log_details:
                metrics["effective_rank"] = effective_rank(watched(h_NE, self.num_views).flatten(0, 1))
        metrics["finite"] = finite.float()
        clock.mark("metrics")
        return StepResult(metrics, clock, rate)

    def _draws(self, step: int) -> AbstractContextManager[None]:
        """What the user's own parts draw at random in a step; the built-in ones draw nothing."""
        if self.own_seed is None:
            return nullcontext()
        return keyed_draws(self.own_seed, step, collectives.rank(), device=self.device)

    def _backward(self, views: Views, clock: PhaseClock) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """Accumulate the gradients: the loss, its metrics, projections and embeddings, all detached."""
        metrics: dict[str, Tensor] = {}

        def evaluate_loss(z_ND: Tensor) -> Tensor:
            clock.mark("encoder")
            # On a GPU the products of the loss are rounded as the encoder's are; a CPU has nothing to gain from it.
            half = self.optim.precision == "bfloat16" and z_ND.is_cuda
            with torch.autocast(z_ND.device.type, torch.bfloat16, enabled=half):
                result: LossResult = self.model.loss(self._projected(z_ND, views))
            metrics.update(result.metrics)
            clock.mark("loss")
            return result.loss

        given = read_step(self.model, views)
        if isinstance(given, TowerInput):
            metrics["texts/truncated"] = torch.tensor(given.truncated, device=self.device)
        if self.optim.micro_batch is None:
            z_ND, h_NE = self.network(given)
            loss = evaluate_loss(z_ND)
            torch.autograd.backward(loss)
        else:
            clips = len(views.clip_id_N) // self.num_views
            chunks = clips // self.optim.micro_batch
            loss, z_ND, h_NE = backward_in_chunks(
                self.network, given, evaluate_loss, num_clips=clips, num_chunks=chunks
            )
        clock.mark("encoder")
        return loss.detach(), metrics, z_ND.detach()[: len(h_NE)], h_NE.detach()

    def _alignments(self, z_ND: Tensor, views: Views) -> dict[str, Tensor]:
        """Alignment and uniformity of the first head; alignment of the others over the views that got their effect."""
        effects = tuple(self.model.projector.variant_heads)
        first, *others = watched(z_ND, self.num_views).chunk(1 + len(effects), 2)
        alignment, uniformity = alignment_and_uniformity(first)
        found = {"alignment": alignment, "uniformity": uniformity}
        if effects:
            treated_NK = torch.stack([views.received[effect] for effect in effects], 1).to(z_ND.device)
            treated_KR = watched(treated_NK, self.num_views).amax(1).T
            heads = zip(effects, others, treated_KR, strict=True)
            found |= {f"alignment/{effect}": alignment_of(z_RVD, treated_R) for effect, z_RVD, treated_R in heads}
        return found

    def _projected(self, z_ND: Tensor, views: Views) -> Projected:
        return Projected(
            z_ND=z_ND,
            clip_id_N=views.clip_id_N,
            labels_NC=views.labels_NC,
            num_views=self.num_views,
            received=views.received,
            texts=views.texts,
        )

    def _update(self, loss: Tensor, step: int, metrics: dict[str, Tensor]) -> Tensor:
        """Move the weights unless something is not finite; whether all was."""
        collectives.average_gradients(self.model.loss.parameters())  # a learnable temperature lives outside of DDP
        limit = self.optim.max_grad_norm if self.optim.max_grad_norm is not None else math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by the fused kernel
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]  # both must exist, or neither is read
        self.optimizer.step()
        if isinstance(self.model.loss, MusicTextLoss):
            self.model.loss.after_update()
        if self.average:
            self.average.update(step)
        metrics |= {"loss": loss, "grad_norm": norm.detach()}
        return finite


def check_kernels(config: ExperimentConfig, *, num_tags: int, device: torch.device) -> None:
    """Whether kernels that the settings name can run where a rank trains.
    The UserError names the setting, why they cannot, and what to set.
    """
    if config.loss.kernel == "fused":
        width = config.head.width or PROJECTION_WIDTH
        labels = torch.empty(0, num_tags, dtype=torch.bool)
        problem = losses_obstacle(torch.empty(0, width, device=device), labels, config.loss.epsilon)
        if problem:
            raise UserError(f"loss.kernel=fused cannot run: {problem}; set loss.kernel to auto or tiles")
    views = config.views
    if config.augment.kernel == "fused" and not (views.placement == "pool" and views.pool_gpus):
        on = device if views.placement == "trainer" else "cpu"
        problem = views_obstacle(torch.empty(0, 0, dtype=torch.int16, device=on))
        if problem:
            raise UserError(f"augment.kernel=fused cannot run: {problem}; set augment.kernel to auto or torch")


def check_network(config: ExperimentConfig, *, num_tags: int, initial: "Snapshot | None") -> None:
    """Whether a `StepTrainer` of these settings could be made: builds its network, without memory for its weights.
    Raises UserError as `StepTrainer` and `StepTrainer.load_weights`.
    """
    # Not this machine's memory decides but that of the workers; a user's network may need real numbers.
    # A text encoder is read from its files, and tried.
    with torch.device("cpu" if config.own_parts() or config.reads_texts else "meta"):
        model = _build(config, num_tags)
    if initial:
        check_locked(config, initial)
        _load(model, initial, assign=True, initial=True)


def _build(config: ExperimentConfig, num_tags: int) -> ContrastiveModel:
    if config.reads_texts:
        model = build_towers(config)
    else:
        model = build_model(
            config.encoder,
            config.head,
            config.loss,
            seed=config.seed,
            num_tags=num_tags,
            micro_rows=config.micro_rows,
            frontend=config.frontend,
        )
    try:
        checkpoint_first(model.projector.encoder.body, config.optim.checkpoint_blocks)
    except ValueError as error:
        raise UserError(f"optim.{error}") from None
    return model


def _load(model: ContrastiveModel, snapshot: "Snapshot", *, assign: bool = False, initial: bool = False) -> None:
    """The whole state; at the start of a run, of an encoder without this run's kind of head its encoder alone."""
    try:
        state = snapshot.model_state()
        same = isinstance(model.projector, TowerProjector) == has_towers(state) and has_head(state)
        if initial and not same:
            load_audio_tower(model.projector, state, assign=assign)
        else:
            model.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise UserError(
            f"{snapshot.path}: does not fit this encoder and head; it was trained with {_trained_with(snapshot)} "
            f"({str(error).splitlines()[1].strip() if chr(10) in str(error) else error})"
        ) from None


TEXT_KEYS = ("text.encoder", "text.path", "text.settings", "text.trained", "text.hidden")
"""Keys of a text tower's network."""


def _trained_with(snapshot: "Snapshot") -> str:
    """The keys of a snapshot's network that are not the defaults."""
    there, known = flatten(snapshot.config), flatten(to_tree(ExperimentConfig()))
    of_network = [key for key in there if key.startswith(("encoder.", "frontend.", "head.", *TEXT_KEYS))]
    return " ".join(f"{key}={there[key]}" for key in of_network if there[key] != known.get(key)) or "the defaults"


def _example(config: ExperimentConfig, model: ContrastiveModel, device: torch.device) -> Tensor | TowerInput | None:
    """Views of quiet noise as the encoder reads them; None where the model is compiled for the shape of a step."""
    if config.optim.compile or not collectives.is_distributed():
        return None
    rows = config.micro_rows or max(2, config.views.count)
    wave_NT = 0.01 * torch.randn(rows, config.views.samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        views: Tensor = build_frontend(config.frontend, SAMPLE_RATE)(wave_NT)
    return example_input(model, views.to(device))


def _compiled(projector: Network, device: torch.device) -> nn.Module:
    """The projector under torch.compile; it shares the weights."""
    body = projector.encoder.body
    if device.type == "cpu" and getattr(body, "has_cpu_kernels", False):
        raise UserError(
            f"optim.compile=true: on a CPU {type(body).__name__} has operations of its own that take half the time of "
            "the layers torch.compile can read; set optim.compile=false, or train on a GPU"
        )
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if not any(shutil.which(name) for name in compilers):
        raise UserError(
            f"optim.compile=true needs a C++ compiler, and {' or '.join(compilers)} is not on PATH; install one, name "
            "it in CXX, or set optim.compile=false"
        )
    compiled: nn.Module = torch.compile(projector)  # type: ignore[assignment]  # a module comes back as a module
    return compiled
