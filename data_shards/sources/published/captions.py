"""Captions as published: MusicCaps' table beside audio that one fetched oneself, and the Song Describer dataset.

They become `Clip.captions`: text beside the labels, never a vocabulary.
"""

import ast
from pathlib import Path

from cluster.settings import UserError
from data_shards.audio.decode import FileAudio
from data_shards.audio.scan import suffixes
from data_shards.audio.trees import find_tree
from data_shards.format.records import Audio, Clip, Listing
from data_shards.sources.published.tables import count_note, first_below, read_table, require_columns, split_counts

MUSICCAPS = ("musiccaps-public.csv", "musiccaps.csv")
MUSICCAPS_COUNTS = {"clips": 5_521}
SONG_DESCRIBER_COUNTS = {"full": {"clips": 706, "captions": 1_106}, "valid": {"clips": 546, "captions": 746}}
"""Of the dataset's card."""


def read_musiccaps(root: Path) -> Listing:
    """List the clips whose audio is there, each with its caption; multilabel ``aspects``.

    Videos vanish, so the dataset is what one could still fetch. Its test is the part of AudioSet's evaluation set.
    ``root`` holds the table, and ``audio`` with ``YTID.*`` or ``[YTID]-[START-END].*``, ten seconds each.
    The UserError names row and column of what is wrong.
    """
    table, audio = first_below(root, *MUSICCAPS), first_below(root, "audio")
    known = suffixes()
    files = {file.stem: file.name for file in sorted(audio.iterdir()) if file.suffix.lower() in known}
    clips = []
    total = 0
    for number, row in read_table(table, delimiter=","):
        require_columns(table, row, ["ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval"])
        total += 1
        video = row["ytid"]
        file = files.get(video) or files.get(f"[{video}]-[{row['start_s']}-{row['end_s']}]")
        if file is None:
            continue
        clips.append(
            Clip(
                key=f"musiccaps-{video}",
                audio=FileAudio(str(audio), file),
                track=video,
                split="test" if row["is_audioset_eval"] == "True" else "train",
                multilabel={"aspects": _aspects(table, number, row["aspect_list"])},
                captions=(_caption(table, number, row["caption"]),),
            )
        )
    notes = count_note("MusicCaps", {"clips": total}, MUSICCAPS_COUNTS)
    if len(clips) < total:
        notes += (f"MusicCaps: {total - len(clips):,} of {total:,} clips have no audio here",)
    return Listing(tuple(clips), {}, notes)


def read_song_describer(root: Path, *, variant: str = "valid") -> Listing:
    """List the tracks, all for testing, with up to five captions each.

    Args:
        root: holds ``song_describer.csv``, and ``audio`` or ``audio.zip`` with ``59/1198559.2min.mp3``.
        variant: ``valid``, the captions that were checked, or ``full``.

    Raises:
        UserError: names row and column of what is wrong.
    """
    table = first_below(root, "song_describer.csv")
    tree = find_tree(root, "audio")
    if tree is None:
        raise UserError(f"{root}: there is no audio or audio.zip")
    sounds: dict[str, tuple[Audio, str]] = {}
    captions: dict[str, list[str]] = {}
    for number, row in read_table(table, delimiter=","):
        require_columns(table, row, ["track_id", "caption", "is_valid_subset", "artist_id", "path"])
        if variant == "valid" and row["is_valid_subset"] != "True":
            continue
        track = row["track_id"]
        sounds[track] = (tree.audio(row["path"].removesuffix(".mp3") + ".2min.mp3"), row["artist_id"])
        captions.setdefault(track, []).append(_caption(table, number, row["caption"]))
    clips = [
        Clip(
            key=f"songdescriber-{track}",
            audio=sound,
            track=track,
            artist=artist or None,
            split="test",
            captions=tuple(captions[track]),
        )
        for track, (sound, artist) in sounds.items()
    ]
    found = {"clips": split_counts(clips)["test"], "captions": sum(map(len, captions.values()))}
    return Listing(tuple(clips), {}, count_note(f"Song Describer {variant}", found, SONG_DESCRIBER_COUNTS[variant]))


def _caption(table: Path, number: int, cell: str) -> str:
    if not cell.strip():
        raise UserError(f"{table}, row {number}, column caption: is empty")
    return cell.strip()


def _aspects(table: Path, number: int, cell: str) -> tuple[str, ...]:
    try:
        aspects = ast.literal_eval(cell)  # the table holds Python's notation of a list
        return tuple(sorted({str(aspect).strip() for aspect in aspects} - {""}))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise UserError(f"{table}, row {number}, column aspect_list: {cell!r} is not a list") from None
