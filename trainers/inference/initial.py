"""What a new run starts from (`init_from`): a snapshot, an exported encoder, or a model that ships."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trainers.inference.frozen import PREFIX, open_encoder
from trainers.state.places import ABOUT, locate, shipped_model
from trainers.state.snapshot import Snapshot, open_snapshot
from trainers.two_tower import PREFIX as PROJECTOR


@dataclass(frozen=True, kw_only=True)
class ExportedStart(Snapshot):
    """An exported encoder as a snapshot to start from: it has no head, and no state of an optimiser."""

    source: str
    """As `open_encoder` takes it."""

    def model_state(self) -> dict[str, Tensor]:
        """Weights of the encoder, and of a text tower and the projections where it has them, as a snapshot's."""
        found = open_encoder(self.source, trust_code=True)
        state = {f"{PREFIX}{name}": value for name, value in found.state.items()}
        return state | {f"{PROJECTOR}{name}": value for name, value in found.towers.items()}


def open_initial(source: Path | str, *verified: Snapshot) -> Snapshot:
    """Find and verify what a run starts from; no code is imported. Raises UserError if it is missing or damaged."""
    place = locate(source)
    if not (place / ABOUT).is_file() and shipped_model(source) is None:
        return open_snapshot(place, *verified)
    for known in verified:
        if isinstance(known, ExportedStart) and known.source == str(source):
            return known
    # The run's own configuration names the code that its encoder needs: this one's is not imported.
    found = open_encoder(source, trust_code=True)
    return ExportedStart(
        path=found.path,
        step=found.step,
        config=found.config,
        data_hash=found.data_hash,
        provenance=found.provenance,
        vocabulary=(),
        score=None,
        hash=found.hash,
        source=str(source),
    )
