"""Make a model that ships out of a run: for maintainers.

    python -m trainers.models.ship outputs/open_mel --name open-mel --summary "…" \
        --report outputs/open_mel/evaluation/report.json --attribution DIR/labels.csv

It writes `trainers/models/open_mel/` (an export with weights at half precision and without programs) and its row of
`models.json`. It refuses music under other licences than CC0, CC BY and CC BY-SA, and more than `MOST_MB`.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from cluster.files.storage import write_atomic
from cluster.settings import RunError, UserError
from trainers.inference.export import ExportOptions, export_encoder
from trainers.inference.frozen import open_encoder
from trainers.inference.training_data import Training, trainings
from trainers.models.shipped import MODELS, TABLE, shipped_models

LICENCE = "CC BY-SA 4.0"
"""Of the weights: the strictest licence of the music."""
ALLOWED = re.compile(r"(?:\w+ )?CC(?:0|[ -]BY(?:-SA)?)(?:[ -]\d\.\d)?")
"""Of each part of a licence such as ``MIDI CC BY 4.0; SoundFont CC0``."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MOST_MB = 12.0


def ship(source: Path | str, name: str, summary: str, options: ExportOptions, models: Path = MODELS) -> Path:
    """Write a model's folder, which is returned, and its row of `models.json`; an earlier one of this name is replaced.
    Raises UserError for a name, a licence, or a size that may not ship.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: must be lower-case words joined by hyphens, such as open-mel")
    found = open_encoder(source)
    _check_licences(trainings(found))
    folder = models / name.replace("-", "_")
    made = export_encoder(source, folder, ExportOptions(
        report=options.report, attribution=options.attribution, half=True, programs=False,
    )).folder  # fmt: skip
    size = sum(file.stat().st_size for file in made.iterdir()) / 1e6
    if size > MOST_MB:
        raise UserError(
            f"{made}: {size:.1f} MB, more than the {MOST_MB:g} MB of a model that ships; train a smaller one"
        )
    table = models / TABLE.name
    rows = json.loads(table.read_text(encoding="utf-8")) if table.is_file() else {}
    rows[name] = {"folder": made.name, "hash": open_encoder(made).hash, "summary": summary, "licence": LICENCE}
    write_atomic(table, json.dumps(dict(sorted(rows.items())), indent=1, ensure_ascii=False) + "\n")
    shipped_models.cache_clear()
    return made


def may_ship(licence: str) -> bool:
    """Whether weights trained on music under a licence may be under `LICENCE`.

    >>> [may_ship(name) for name in ("CC0 1.0", "CC-BY-SA-3.0", "MIDI CC BY 4.0; SoundFont CC BY 4.0")]
    [True, True, True]
    >>> [may_ship(name) for name in ("CC BY-NC 4.0", "CC BY-ND 4.0", "GPL-2.0", "MIDI CC0; SoundFont MIT")]
    [False, False, False, False]
    """
    return all(ALLOWED.fullmatch(part.strip()) for part in licence.split(";"))


def _check_licences(training: list[Training]) -> None:
    """Refuse music that is not known to be under a licence that allows derived weights under `LICENCE`."""
    for run in training:
        unknown = [run.unknown, *(one.unknown for one in run.sets)]
        if any(unknown):
            raise UserError(
                f"{run.run}: {next(filter(None, unknown))}; a model ships with the licences of its music alone"
            )
        for one in run.sets:
            other = [licence for licence in one.licences if not may_ship(licence)]
            if other:
                raise UserError(
                    f"{run.run}: {one.role} clips of {one.name} are under {', '.join(sorted(other))}; train on music "
                    "under CC0, CC BY or CC BY-SA alone"
                )


def main() -> None:
    """Ship, and print where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a snapshot or a run's folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--summary", required=True, help="one line")
    parser.add_argument("--report", type=Path, help="report.json of an evaluation of this snapshot")
    parser.add_argument("--attribution", type=Path, required=True, help="CSV with path, attribution and licence")
    given = parser.parse_args()
    options = ExportOptions(report=given.report, attribution=given.attribution)
    try:
        print(ship(given.source, given.name, given.summary, options))
    except (UserError, RunError) as error:
        sys.exit(f"error {error}")


if __name__ == "__main__":
    main()
