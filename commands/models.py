"""`counterpoint models`: the models that ship with this release, which every command takes by name."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.settings import UserError
from commands.console import AsJson, console, escape, positional, print_json, quoted, say, then
from trainers.models.shipped import ShippedModel, known_models, shipped_models

app = typer.Typer(
    help="Models that ship with this release: every command takes their names where it takes a snapshot.",
    no_args_is_help=True,
)
CARD, FACTS, ATTRIBUTION = "README.md", "card.json", "attribution.csv"


@app.command(name="list")
def list_models(as_json: AsJson = False) -> None:
    """Names, what each model is, and the licence of its weights."""
    models = shipped_models().values()
    if as_json:
        print_json([_row(model) for model in models])
        return
    for model in models:
        console.print(f"{model.name}  {escape(model.summary)}  ({model.licence})", highlight=False, soft_wrap=True)
    if not models:
        console.print("none ships with this release", highlight=False)
        return
    then(*(quoted("counterpoint", "models", "show", model.name) for model in models))


@app.command()
def show(
    name: Annotated[str, positional("NAME", "As `models list` has it.")],
    as_json: AsJson = False,
) -> None:
    """The model card: what it is, its music with licences and attribution, settings, metrics, limits."""
    model = shipped_models().get(name)
    if model is None:
        raise UserError(f"{name}: no model that ships with this release; those are {known_models(name)}")
    from trainers.inference.frozen import open_encoder

    open_encoder(model.folder)  # a card is only as good as the files it is about
    if as_json:
        facts = json.loads((model.folder / FACTS).read_text(encoding="utf-8"))
        config = json.loads((model.folder / "encoder.json").read_text(encoding="utf-8"))["config"]
        print_json({**_row(model), **facts, "config": config})
        return
    console.print(f"{model.name}: {escape(model.summary)}", highlight=False, soft_wrap=True)
    console.print(f"licence of the weights: {model.licence}; of the code: Apache-2.0", highlight=False)
    say((model.folder / CARD).read_text(encoding="utf-8"))
    commands: list[tuple[str, ...]] = [("search", name, "FOLDER", "SONG.mp3"), ("embed", name, "FOLDER")]
    if (model.folder / "towers.safetensors").is_file():
        commands[1:1] = [
            ("search", name, "FOLDER", "--text", "slow piano"),
            ("tag", name, "FOLDER", "--tags", "jazz,rock"),
        ]
    then(*(quoted("counterpoint", *words) for words in commands))


def _row(model: ShippedModel) -> dict[str, Any]:
    attribution: Path = model.folder / ATTRIBUTION
    return {**asdict(model), "attribution": attribution if attribution.is_file() else None}
