"""What a search or a tagging may be asked, refused where it is wrong. No torch here: the answer comes at once."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.entry_points import is_entry_point
from cluster.settings import UserError
from cluster.validation.messages import nearest
from data_shards.text.captions_file import MAX_WORDS
from evaluation.config import Task
from evaluation.text_task import TEXT_KINDS, check_prompts
from trainers.inference.spaces import ALL, WHOLE, no_text_tower, on_disk, space_in

ALIASES = {"tempo": "stretch", "key": "pitch", "sound": "invariant"}
"""What a listener calls a space: the property in which it tells tracks apart."""
Weights = Mapping[str, float]
"""Space → weight, ≥ 0, not all 0."""


def parse_by(text: str) -> dict[str, float]:
    """Names and weights; a name without a weight has 1.

    >>> parse_by("pitch:2,stretch"), parse_by("tempo")
    ({'pitch': 2.0, 'stretch': 1.0}, {'tempo': 1.0})

    Raises:
        UserError: for a weight that is no number, or a name that comes twice.
    """
    weights: dict[str, float] = {}
    for word in text.split(","):
        name, colon, given = word.strip().rpartition(":")
        name, given = (name, given) if colon else (given, "1")
        try:
            weight = float(given)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise UserError(f"--by {text}: {word.strip()!r} is no NAME or NAME:WEIGHT with a weight ≥ 0")
        if name in weights:
            raise UserError(f"--by {text}: {name} comes twice; give it one weight")
        weights[name] = weight
    return weights


def resolve(by: Weights, spaces: Sequence[str], holder: str) -> dict[str, float]:
    """Weights by the names of spaces, aliases and `ALL` replaced.

    Raises:
        UserError: for a space that is not there, or weights that are all 0.
    """
    asked = "--by " + ",".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in by.items())
    if ALL in by and ALL not in spaces:
        if len(by) > 1:
            raise UserError(f"{asked}: all stands alone; name the spaces of a mixture: {', '.join(spaces)}")
        return {WHOLE: 1.0} if WHOLE in spaces else dict.fromkeys(spaces, 1.0)
    weights: dict[str, float] = {}
    for name, weight in by.items():
        space = name if name in spaces else ALIASES.get(name, name)
        if space not in spaces:
            known = [*spaces, ALL, *(alias for alias, meant in ALIASES.items() if meant in spaces)]
            meant = "" if space == name else f" ({name})"
            raise UserError(
                f"{asked}: {holder} has no space {space}{meant}; it has {', '.join(known)}{nearest(name, known)}"
            )
        if space in weights:
            raise UserError(f"{asked}: {name} is {space}, which comes twice; give it one weight")
        weights[space] = weight
    if not sum(weights.values()) > 0 or not all(0 <= weight < math.inf for weight in weights.values()):
        raise UserError(f"{asked}: weights must be finite, ≥ 0 and not all 0")
    return weights


def check_queries(files: Sequence[Path], texts: Sequence[str], text_share: float, by: str | Weights, k: int) -> None:
    """Refuse queries that are not there, before anything is loaded. The UserError names the query or option."""
    if not isinstance(by, str | Mapping):
        raise UserError(f"by must be a text or a mapping of names to weights, got {by!r}")
    if k < 1:
        raise UserError(f"-k must be ≥ 1, got {k}")
    if not files and not texts:
        raise UserError('nothing to search for: give an audio file, or --text "words"')
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: {'is a folder; a query is an audio file' if file.is_dir() else 'no such file'}")
    check_texts(texts)
    if not 0 <= text_share <= 1:
        raise UserError(f"--text-share must be in [0, 1], got {text_share:g}")
    if texts and by != ALL:
        raise UserError(f"--by {by}: texts are compared in the one space that they share with music; leave --by out")


def check_catalogue(catalogue: Path) -> None:
    """Refuse a catalogue that is not there. The UserError names it."""
    if not catalogue.exists():
        raise UserError(f"{catalogue}: no such folder, Parquet file or saved index")


def check_texts(texts: Sequence[str], option: str = "--text") -> None:
    """Refuse texts without a letter or other sign, and those of a length that no text tower reads."""
    for text in texts:
        if not text.strip():
            raise UserError(f"{option}: an empty text; describe the music in a few words")
        if (count := len(text.split())) > MAX_WORDS:
            raise UserError(f"{option}: a text of {count:,} words; describe the music in at most {MAX_WORDS:,}")


def check_tags(tags: Sequence[str], prompts: Sequence[str]) -> None:
    """Refuse tags and prompts that cannot be compared with. The UserError names the option."""
    if not tags:
        raise UserError('--tags: no tag; give their names: --tags "jazz,rock,flute"')
    check_texts(tags, "--tags")
    twice = sorted({tag for tag in tags if list(tags).count(tag) > 1})
    if twice:
        raise UserError(f"--tags: {twice[0]} comes twice")
    try:
        check_prompts(prompts)
    except ValueError as error:
        raise UserError(f"--prompt: {error}") from None


def check_tasks(source: Path | str, tasks: Mapping[str, Task]) -> None:
    """Refuse tasks about texts for an encoder on disk without a text tower. The UserError names the task."""
    found = None if is_entry_point(str(source)) else on_disk(Path(source))
    for name, task in tasks.items():
        if found is not None and not found.texts and task.kind in TEXT_KINDS and not task.optional:
            raise UserError(
                f"task {name}: {no_text_tower(source)}; or leave the task out with tasks.{name}.optional=true"
            )


def check_space(source: Path | str, space: str) -> None:
    """Refuse a space that an encoder on disk does not have."""
    found = None if is_entry_point(str(source)) else on_disk(Path(source))
    if found is not None and found.spaces:
        space_in(dict.fromkeys(found.spaces, slice(0)), space, "--space")


def check_encoder_can_answer(
    source: Path | str, by: str | Weights = ALL, *, texts: bool = False, option: str = "--text"
) -> None:
    """Refuse texts for an encoder on disk without a text tower, and spaces that it does not have.

    Of a user's own code nothing is said: its spaces are known once it is made.
    """
    asked = parse_by(by) if isinstance(by, str) else by
    found = None if is_entry_point(str(source)) else on_disk(Path(source))
    if found is None:
        return
    if texts and not found.texts:
        raise UserError(f"{option}: {no_text_tower(source)}")
    if not texts and found.spaces:
        resolve(asked, found.spaces, "the encoder")
