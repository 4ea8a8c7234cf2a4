"""Captions of a language model of the user's own, as JSON Lines: prompts out, answers in. Nothing here calls a model.

A prompt is ``{"key": …, "tags": [...], "prompt": …}``; its answer is the same line with ``"captions": [...]``. Tags are
those that the captions of the line show: one list for all of them, or one for each.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cluster.files.spool import Spool
from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from data_shards.format.records import Clip
from data_shards.format.text import tidy
from data_shards.text.clip_words import ClipWords, build_lexicon
from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.lexicon import partial_tags

MAX_WORDS = 1000
"""Words of a caption at most: text towers read some dozens (FIGMA, arXiv:2606.06615: little is gained beyond 50)."""
NAMED = 3
"""Keys that a message names."""
PROMPT = (
    "Write one sentence that describes a piece of music with these attributes and no others: {tags}. "
    "Name no artist, title or album. Answer with the sentence alone."
)


class Captions(NamedTuple):
    """The captions of a clip and the tags that each shows, none where the file does not say."""

    texts: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]


def prompts(
    index: ShardIndex, *, each: int = 10, least: int = 2, split: str = "train", seed: int = 0, dictionary: str = "music"
) -> Iterator[dict[str, Any]]:
    """Prompts for captions of balanced parts of the clips' tags, as lines.
    Raises UserError if no clip of the split has a tag.
    """
    words = load_dictionary(dictionary)
    lexicon = build_lexicon([index], words)
    clips = ClipWords(index, lexicon, words)
    rows = [row for row in index.rows(split).tolist() if clips.tags(row)]
    if not rows:
        raise UserError(f"no clip of the split {split} has tags to write captions from; build the set with labels")
    for row in rows:
        key = str(index.key[row])
        for number in range(each):
            codes = partial_tags(
                lexicon, clips.tags(row), Draws("prompt", seed, key, number), least=least, balanced=True
            )
            tags = [lexicon.words[code].name for code in codes]
            yield {"key": key, "tags": tags, "prompt": PROMPT.format(tags=", ".join(tags))}


def read_captions(path: Path) -> dict[str, Captions]:
    """The captions of a file of JSON Lines, by the clip's key; lines of one key are joined in order.
    The UserError names the file, the line, and what is wrong in it.
    """
    if not path.is_file():
        raise UserError(f"--captions {path}: no such file; give JSON Lines with key, captions and tags")
    found: dict[str, Captions] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    key, captions = _parse(line, f"{path}, line {number}")
                    known = found.get(key, Captions((), ()))
                    found[key] = Captions(known.texts + captions.texts, known.tags + captions.tags)
    except UnicodeError as error:
        raise UserError(f"{path}: not UTF-8: {error}; save it as UTF-8") from None
    if not found:
        raise UserError(f"{path}: no lines; each line is {{'key': …, 'captions': ['…'], 'tags': […]}}")
    return found


def add_captions(clips: Sequence[Clip], captions: Mapping[str, Captions], path: Path) -> Sequence[Clip]:
    """Clips with the captions of a file behind their own. Raises UserError for keys that no clip has."""
    known = {clip.key for clip in clips if clip.key in captions}
    unknown = [key for key in captions if key not in known]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown):,} of {len(captions):,} keys are of no clip, for example "
            f"{', '.join(unknown[:NAMED])}; keys are those of counterpoint captions prompts on shards of this folder"
        )
    return Spool(_with(clip, captions[clip.key]) if clip.key in captions else clip for clip in clips)


def _with(clip: Clip, more: Captions) -> Clip:
    tags = clip.caption_tags or ((),) * len(clip.captions)
    return replace(clip, captions=clip.captions + more.texts, caption_tags=tags + more.tags)


def _parse(line: str, where: str) -> tuple[str, Captions]:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}; write one object a line") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a {type(tree).__name__}; write an object with key, captions and tags")
    key, texts = tree.get("key"), tree.get("captions")
    if not isinstance(key, str) or not key:
        raise UserError(f"{where}: key is {key!r}; give the key of a clip, as counterpoint captions prompts prints it")
    if texts is None and "prompt" in tree:
        raise UserError(f"{where}: a prompt without captions; let your model answer it, and add its answer as captions")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: captions is {_short(texts)}; give a list of texts")
    tidied = tuple(tidy(text) for text in texts)
    for text in tidied:
        if not text:
            raise UserError(f"{where}: a caption of {key} is empty; leave it out")
        if (count := len(text.split())) > MAX_WORDS:
            raise UserError(f"{where}: a caption of {key} has {count:,} words; give at most {MAX_WORDS:,}")
    return key, Captions(tidied, _tags(tree.get("tags"), len(tidied), where))


def _tags(tree: Any, num_captions: int, where: str) -> tuple[tuple[str, ...], ...]:
    """The tags of each caption: one list for all, one for each, or none."""
    lists = tree
    if tree is None:
        lists = [[]] * num_captions
    elif isinstance(tree, list) and all(isinstance(tag, str) for tag in tree):
        lists = [tree] * num_captions
    if not isinstance(lists, list) or not all(isinstance(one, list) for one in lists):
        raise UserError(f"{where}: tags is {_short(tree)}; give a list of tags, or one such list for each caption")
    if len(lists) != num_captions:
        raise UserError(f"{where}: {len(lists)} lists of tags for {num_captions} captions; give one for each")
    if not all(isinstance(tag, str) and tidy(tag) for one in lists for tag in one):
        raise UserError(f"{where}: a tag of {_short(tree)} is empty or no text; leave it out")
    return tuple(tuple(dict.fromkeys(tidy(tag) for tag in one)) for one in lists)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
