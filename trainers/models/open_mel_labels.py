"""The labels of the music that open-mel was trained on, out of the open sets: for whoever trains it again.

    python -m trainers.models.open_mel_labels DATA --out labels.csv
    counterpoint shards build folder --audio DATA --labels labels.csv --out DIR

DATA holds ``music/`` and ``game_music/``, each with its labels.csv. Kept are rows under a licence that a model may ship
with (`may_ship`), and of single notes every fourth.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.files.storage import write_atomic
from cluster.files.tables import csv_table
from cluster.settings import UserError
from trainers.models.ship import may_ship

SETS = ("music", "game_music")
NOTES, EVERY = "notes_gm", 4
COLUMNS = (
    "path", "split", "track_id", "artist", "set", "genre", "moods", "instruments", "tags", "bpm", "caption",
    "pitch_midi", "instrument_family", "licence",
)  # fmt: skip


def open_mel_labels(data: Path) -> Iterator[dict[str, str]]:
    """Rows with `COLUMNS`, paths relative to ``data``. Raises UserError where a set is missing."""
    notes = 0
    for name in SETS:
        table = data / name / "labels.csv"
        if not table.is_file():
            raise UserError(f"{table}: not there; give the folder that holds {' and '.join(SETS)}")
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                known = {"set": name} | row
                if not may_ship(known["licence"]):
                    continue
                if known["set"] == NOTES:
                    notes += 1
                    if notes % EVERY != 1:
                        continue
                yield {column: known.get(column, "") for column in COLUMNS} | {"path": f"{name}/{row['path']}"}


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with music/ and game_music/")
    parser.add_argument("--out", type=Path, default=Path("labels.csv"))
    given = parser.parse_args()
    try:
        rows = list(open_mel_labels(given.data))
    except UserError as error:
        print(f"error {error}", file=sys.stderr)
        return 2
    write_atomic(given.out, csv_table([COLUMNS, *(row.values() for row in rows)]))
    print(f"{given.out}: {len(rows)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
