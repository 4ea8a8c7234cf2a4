"""`counterpoint captions prompts|check`."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from cluster.settings import Config, UserError, load_config
from commands.console import AsJson, console, errors, escape, positional, print_json
from data_shards.text.config import TextViewsConfig

app = typer.Typer(
    help="Captions: prompts for a language model of your own, and what texts of a set are like.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Shards = Annotated[str, positional("SHARDS", "Folder or URI of the shards.")]
STEPS = 1000
"""Of the run whose last step is looked at, where the share of swaps has risen."""
SHOWN = 3
"""Examples of swaps that are printed."""


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig(Config):
    """Keys of `counterpoint captions check`."""

    text: TextViewsConfig = field(default_factory=TextViewsConfig)


@app.command("prompts")
def prompts(
    shards: Shards,
    each: Annotated[int, typer.Option(help="Prompts a clip.", min=1)] = 10,
    least: Annotated[int, typer.Option(help="Tags of a prompt at least.", min=1)] = 2,
    split: Annotated[str, typer.Option(help="Whose clips: train, valid or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the parts of the tags.")] = 0,
    dictionary: Annotated[str, typer.Option(help="Categories of tags: a file of conf/swaps, or a path.")] = "music",
) -> None:
    """Print prompts for your own language model, one JSON object a line, each of a balanced part of a clip's tags.

    Add its answer to each line as "captions": ["…"], and build the shards again with --captions FILE.jsonl.
    """
    from data_shards.format.records import SPLITS
    from data_shards.read.stores import open_index
    from data_shards.text.captions_file import prompts as lines_of

    if split not in SPLITS:
        raise UserError(f"--split {split}: no such split; give one of {', '.join(SPLITS)}")
    index = open_index(shards)
    count = 0
    for line in lines_of(index, each=each, least=least, split=split, seed=seed, dictionary=dictionary):
        print(json.dumps(line, ensure_ascii=False))
        count += 1
    clips = len(index.rows(split))
    if count < each * clips:
        errors.print(f"{clips - count // each:,} of {clips:,} clips have no tags and no prompt", highlight=False)


@app.command("check")
def check(
    shards: Shards,
    overrides: Annotated[list[str] | None, positional("[KEY=VALUE]...", "Dotted keys: text.captions=templates")] = None,
    as_json: AsJson = False,
) -> None:
    """Show texts of a set's training clips with their swaps, and whether a text alone betrays that it was swapped.

    A linear classifier of the words sees texts and swapped texts without any audio; one half is chance.
    """
    from data_shards.read.stores import open_index
    from data_shards.text.checks import check_texts
    from data_shards.text.swap_check import FOLDS, find_betrayal, swap_pairs
    from data_shards.text.text_views import TextViews

    config = load_config(CaptionsConfig, None, overrides or []).text
    if not config.swap.each:
        raise UserError("text.swap.each=0 swaps nothing, so there is nothing to check; set text.swap.each=1")
    index = open_index(shards)
    rows = index.rows("train")
    views = TextViews(config, (index, None), (rows, None), seed=0, steps=STEPS)
    check_texts(views)
    pairs = swap_pairs(views)
    if len(pairs) < 2 * FOLDS:
        raise UserError(f"{len(pairs)} of {len(rows):,} training clips have a swapped text; a check needs {2 * FOLDS}")
    found = find_betrayal(pairs)
    tree: dict[str, Any] = {
        "clips": len(rows),
        "swapped": len(pairs),
        "accuracy": found.accuracy,
        "interval": [found.low, found.high],
        "betrayed": found.is_betrayed,
        "examples": [list(pair) for pair in pairs[:SHOWN]],
    }
    if as_json:
        print_json(tree)
        return
    for own, hard in pairs[:SHOWN]:
        console.print(f"text     {escape(own)}\nswapped  {escape(hard)}\n", highlight=False, soft_wrap=True)
    verdict = "texts betray their swaps: change the dictionary" if found.is_betrayed else "no more than chance"
    console.print(
        f"{len(pairs):,} of {len(rows):,} clips swapped; from the words alone a classifier finds the swapped text in "
        f"{found.accuracy:.1%} of pairs, 95% interval {found.low:.1%} to {found.high:.1%}, chance 50%: {verdict}",
        highlight=False,
        soft_wrap=True,
    )
