"""`counterpoint pretrain`, `views` and `export`: train an encoder, preview its views, export it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.imports import uncollected
from cluster.refusals import Refusals
from cluster.settings import PreemptedError, UserError, load_config
from commands.console import (
    AsJson,
    DryRun,
    Overrides,
    Preset,
    TrustCode,
    console,
    errors,
    made,
    positional,
    print_json,
    progress,
    quoted,
    show,
    then,
)

if TYPE_CHECKING:
    from trainers.config import ExperimentConfig


def _experiment(preset: Path, overrides: list[str] | None) -> "ExperimentConfig":
    """The configuration of a command; a wrong key or path is refused before torch is imported."""
    from data_shards.format.paths import check_set
    from trainers.config import ExperimentConfig
    from trainers.state.places import check_encoder

    config = load_config(ExperimentConfig, preset, overrides or [])
    refusals = Refusals()
    for name in config.data.drawn_from:
        if place := getattr(config.data, name):  # a missing set is refused by the loader
            with refusals.noted():
                check_set(f"data.{name}", place)
    if config.init_from:
        with refusals.noted():
            check_encoder(Path(config.init_from).expanduser())
    refusals.require_none()
    return config


World = Annotated[
    int | None,
    typer.Option(help="With --dry-run: what a step on so many GPUs would cost.", min=1, show_default=False),
]
Gpu = Annotated[str | None, typer.Option(help="With --world: a100, h100 or h200.", show_default="h100")]
Link = Annotated[str | None, typer.Option(help="With --world: network rate of each GPU.", show_default="400Gb")]


def pretrain(
    preset: Preset,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    world: World = None,
    gpu: Gpu = None,
    link: Link = None,
    as_json: AsJson = False,
) -> None:
    """Contrastive pretraining with Ray Train. The same command again resumes; a finished run exits 0."""
    for option, value, needed in (("world", world, dry_run), ("gpu", gpu, world), ("link", link, world)):
        if value is not None and not needed:
            raise UserError(f"--{option} {value}: belongs to --{'dry-run' if option == 'world' else 'world N'}; add it")
    config = _experiment(preset, overrides)
    if dry_run:
        from trainers.checks.cost import Asked
        from trainers.checks.dry_run import plan

        asked = Asked(world=world, gpu=gpu or "h100", link=link or "400Gb") if world else None
        show(plan(config, asked=asked, progress=progress(as_json=as_json)), as_json=as_json)
        return
    with uncollected():
        from trainers.checks.start_up import checked
        from trainers.pretrain import pretrain_checked

    with checked(config) as start, progress(as_json=as_json).stage("pretraining", config.optim.steps) as bar:
        code = pretrain_checked(start, watch=lambda row: bar(int(row["step"]), f"loss {row['loss']:.3f}"))
        if not code:
            bar(config.optim.steps, "")  # no step of a run that was done before was watched
    folder = Path(config.run.dir)
    if code:
        raise PreemptedError(f"stopped with a snapshot in {folder}/snapshots/last; the same command resumes")
    files = {"snapshot": folder / "snapshots/last", "metrics": folder / "metrics.jsonl"}
    if as_json:
        print_json(files)
        return
    made(**files)
    trusted = ["--trust-code"] * bool(config.own_parts())
    tasks = f"conf/evaluation/{'music_text' if config.reads_texts else 'NAME'}.yaml"
    shards = f"data.shards={config.data.labelled or 'DIR'}"
    evaluate = ["counterpoint", "evaluate", folder, tasks, shards, "--out", folder / "evaluation", *trusted]
    search = ["counterpoint", "search", folder, "FOLDER"]
    tag = ["counterpoint", "tag", folder, "FOLDER", "--tags", "jazz,rock", *trusted]
    by_text = [quoted(*search, "--text", "a slow piece", *trusted), quoted(*tag)] * config.reads_texts
    by_space = [quoted(*search, "SONG.mp3", "--by", effect, *trusted) for effect in config.head.variant]
    then(quoted(*evaluate), quoted(*evaluate, "--against", "NAME=ANOTHER_RUN"), *by_text, *by_space)


def views(
    preset: Preset,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the sounds.")],
    overrides: Overrides = None,
    step: Annotated[int, typer.Option("--step", help="Step to preview, counted from 0.", min=0)] = 0,
    clips: Annotated[int, typer.Option("--clips", help="Clips to show, of the first worker's batch.", min=1)] = 8,
    effects: Annotated[bool, typer.Option("--effects", help="Show each effect alone, on one clip.")] = False,
    as_json: AsJson = False,
) -> None:
    """Preview a step's views before and after, and what the encoder reads: a page, WAV files, pictures."""
    config = _experiment(preset, overrides)
    with uncollected():
        from trainers.views.page import write_preview

    with (errors if as_json else console).status("making views"):
        written = write_preview(config, out, step=step, clips=None if effects else clips)
    if as_json:
        print_json(
            {"page": written.page, "sounds": written.sounds, "clips": written.clips, "clips_on_page": written.on_page}
        )
        return
    if written.on_page < written.clips:
        console.print(f"the page shows {written.on_page} of {written.clips} clips; all are among the sounds")
    made(page=written.page, sounds=written.sounds)
    words = (preset, *(overrides or []))
    also = quoted("counterpoint", "views", *words, "--step", step, "--effects", "--out", out)
    then(*[also] * (not effects), quoted("counterpoint", "pretrain", *words))


def export(
    snapshot: Annotated[Path, positional("SNAPSHOT", "A snapshot, a run's folder, an exported one, or open-mel.")],
    out: Annotated[Path, typer.Option("--out", help="Output folder; an earlier export is replaced.")],
    report: Annotated[
        Path | None, typer.Option("--report", help="report.json of an evaluation of this encoder, for the model card.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Weights as float16: half the size, embeddings differ in the fourth digit.")
    ] = False,
    programs: Annotated[bool, typer.Option(help="Also a torch.export program and ONNX.")] = True,
    attribution: Annotated[
        Path | None,
        typer.Option(
            help="CSV with path, attribution and licence of the clips that were trained on, listed beside the card.",
            show_default=False,
        ),
    ] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Write an encoder for others: safetensors with a model card, a torch.export program, and ONNX."""
    from trainers.state.places import check_encoder

    check_encoder(snapshot)
    with uncollected():
        from trainers.inference.export import ExportOptions, export_encoder

    options = ExportOptions(report=report, half=half, programs=programs, attribution=attribution)
    with (errors if as_json else console).status("exporting and checking"):
        found = export_encoder(snapshot, out, options, trust_code=trust_code)
    for name, reason in found.left_out.items():
        errors.print(f"left out {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
    if as_json:
        left = {"left_out": found.left_out, "differences": found.differences}
        print_json({"folder": found.folder, "files": found.files, **left})
        return
    for name, difference in found.differences.items():
        console.print(f"{name} differs from the encoder by {difference:.1g} of its largest value", highlight=False)
    made(folder=found.folder, **found.files)
    evaluate = ["counterpoint", "evaluate", out, "conf/evaluation/NAME.yaml", "data.shards=DIR"]
    evaluate += ["--out", f"{out}-evaluation", *["--trust-code"] * trust_code]
    given = f"{str(out)!r}{', trust_code=True' if trust_code else ''}"
    load = f"from counterpoint import load_encoder; print(load_encoder({given}).width)"
    then(quoted(*evaluate), quoted("python", "-c", load))
