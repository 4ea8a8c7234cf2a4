"""The pages in Chromium, where it is installed: hover, click, keys, search and playback."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.progress import SILENT
from evaluation.encoders.pool import Pool
from evaluation.explore.catalogue_map import MapOptions, map_catalogue
from evaluation.explore.labels import Labels, encoded
from evaluation.explore.page import Page, write_page
from evaluation.explore.results import write_results
from evaluation.explore.sounds import SoundOptions
from evaluation.search.query import Answer, search
from tests.evaluation.explore.chromium import Tab
from tests.evaluation.explore.conftest import HOSTILE, write_tone

pytestmark = pytest.mark.medium
PLAYED = "new Promise(done => {const wait = () => player.audio.currentTime > 0.02 || player.audio.error ? " \
    "done([player.audio.currentTime > 0.02, player.audio.duration]) : setTimeout(wait, 10); wait()})"  # fmt: skip

REACHED = """(() => {
  const found = new Set([shown.chosen]);
  for (const from of found) for (const arrow of Object.values(ARROWS)) {
    const next = pointBeside(from, ...arrow);
    if (next >= 0) found.add(next);
  }
  return found.size;
})()"""
"""How many tracks the arrow keys come to from the chosen one."""


@pytest.fixture
def page(music: Path, pool: Pool, tmp_path: Path) -> Path:
    return map_catalogue(pool, music, tmp_path / "map.html", MapOptions(colour="mood")).page


def place(tab: Tab, path: str) -> tuple[float, float]:
    """Where a track lies in the window."""
    x, y = tab.run(f"(() => {{const i = data.paths.indexOf({json.dumps(path)}); return [screenX(i), screenY(i)]}})()")
    return float(x), float(y)


def texts(tab: Tab, selector: str) -> list[str]:
    found: list[str] = tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(node => node.textContent)")
    return found


def visible(tab: Tab, name: str) -> Any:
    return tab.run(f"document.getElementById({json.dumps(name)}).offsetParent !== null")


def test_a_click_plays_a_track_and_lists_its_nearest_of_other_tracks(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert not visible(tab, "chosen")
    tab.click(*place(tab, "low/2.wav"))
    assert texts(tab, "#name") == ["Tone 2"]
    assert tab.run(PLAYED)[0]
    near = texts(tab, "#near b")
    assert len(near) == 10
    assert "Tone 3" not in near  # of the same track
    assert tab.run("shown.near.length") == 10
    tab.run("document.querySelector('#others input').click()")
    assert "Tone 3" in texts(tab, "#near b")
    details = dict(zip(texts(tab, "#details dt"), texts(tab, "#details dd"), strict=True))
    assert details == {"mood": "dark", "tags": "sine, 2", "bpm": "62", "licence": "CC0"}
    assert (tab.complaints(), tab.requests()) == ([], [page.resolve().as_uri()])


def test_a_neighbour_is_chosen_and_heard_by_a_click(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.click(*place(tab, "low/2.wav"))
    first = texts(tab, "#near b")[0]
    tab.run("document.querySelector('#near .name').click()")
    assert texts(tab, "#name") == [first]
    assert tab.run(PLAYED)[0]


def test_the_pointer_shows_the_name_and_the_value(tab: Tab, page: Path) -> None:
    tab.open(page)
    x, y = place(tab, "high/9.wav")
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.settle()
    assert (visible(tab, "tip"), texts(tab, "#tip b"), texts(tab, "#tip span")) == (True, ["Tone 9"], ["bright"])


def test_the_colours_are_the_columns(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert texts(tab, "#column option")[0] == "mood"
    assert texts(tab, "#legend span") == ["bright", "dark"]
    low, high = tab.run("['low/1.wav', 'high/8.wav'].map(path => shown.colours.of[data.paths.indexOf(path)])")
    assert len(low) == len(high) == 1
    assert low != high
    tab.run("showLegend('tags')")
    assert [len(of) for of in tab.run("shown.colours.of.slice(0, 3)")] == [2, 2, 2]
    tab.run("showLegend('bpm')")
    assert tab.run("shown.colours.scale") == [60, 73]
    assert len(set(tab.run("shown.colours.of.map(String)"))) == 15  # fourteen numbers, and one that is not known
    tab.run("showLegend('mood'); document.querySelector('#legend button').click()")
    assert tab.run("data.paths.filter((_, i) => shown.only(i)).every(path => path.startsWith('high'))")


def test_the_search_finds_by_any_words_and_marks_what_it_finds(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.key("/")
    tab.send("Input.insertText", text="TONE high")
    assert texts(tab, "#matches") == ["7 tracks"]
    assert tab.run("matches.size") == 7
    tab.key("Enter")
    assert texts(tab, "#name") == ["Tone 10"]
    tab.key("Escape")
    assert (visible(tab, "chosen"), tab.run("matches"), tab.run("player.playing()")) == (False, None, False)


def test_the_map_is_reached_by_keys(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.run("canvas.focus()")
    tab.key("ArrowRight")
    first = tab.run("shown.chosen")
    assert first >= 0
    tab.key("ArrowDown")
    tab.key("ArrowLeft")
    assert tab.run("shown.chosen") != first
    assert tab.run(REACHED) == 15
    tab.key("Enter")
    assert tab.run(PLAYED)[0]
    tab.key("+")
    assert tab.run("view.zoom") > 1
    tab.key("0")
    assert tab.run("[view.zoom, view.x, view.y]") == [1, 0, 0]


def test_names_of_files_are_text(tab: Tab, page: Path) -> None:
    tab.open(page)
    name = HOSTILE.replace("/", "∕")
    tab.click(*place(tab, f"low/{name}"))
    assert texts(tab, "#name") == [name.removesuffix(".wav")]
    assert texts(tab, "#path") == [f"low/{name}"]
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.complaints() == []


def test_on_a_telephone_map_and_list_lie_below_each_other_without_a_scroll_aside(tab: Tab, page: Path) -> None:
    tab.open(page, width=360, height=640, mobile=True)
    tab.click(*place(tab, "low/2.wav"))
    stage, side, wide = tab.run(
        "[...['.stage', '.side'].map(name => document.querySelector(name).getBoundingClientRect().toJSON()), "
        "Math.max(document.documentElement.scrollWidth, document.querySelector('.side').scrollWidth)]"
    )
    assert stage["bottom"] <= side["top"] + 1
    assert stage["height"] > 300
    assert wide <= 360
    inside = tab.run(
        "data.paths.every((_, i) => screenX(i) > 0 && screenX(i) < view.width && screenY(i) < view.height)"
    )
    assert inside


def test_a_link_plays_the_file_beside_the_page(tab: Tab, music: Path, pool: Pool, tmp_path: Path) -> None:
    options = MapOptions(sounds=SoundOptions(kind="link"))
    tab.open(map_catalogue(pool, music, tmp_path / "map.html", options).page)
    tab.click(*place(tab, f"low/{HOSTILE.replace('/', '∕')}"))
    played, seconds = tab.run(PLAYED)
    assert played
    assert seconds == pytest.approx(0.5, abs=0.01)
    assert tab.complaints() == []


def test_a_track_without_a_sound_says_so(tab: Tab, music: Path, pool: Pool, tmp_path: Path) -> None:
    tab.open(map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SoundOptions(kind="none"))).page)
    tab.click(*place(tab, "low/2.wav"))
    assert tab.run("[get('play').disabled, get('play').title]") == [True, "no sound on this page"]


def test_answers_of_a_search_are_listed_with_their_scores_and_play(
    tab: Tab, music: Path, pool: Pool, tmp_path: Path
) -> None:
    query = write_tone(tmp_path / HOSTILE.replace("/", "∕"), 236)
    found = search(pool, music, [query, music / "high" / "9.wav"], k=4)
    counts = write_results(found, music, tmp_path / "results.html")
    assert (counts.silent, counts.linked) == (0, 0)
    tab.open(tmp_path / "results.html")
    assert texts(tab, "h3") == [query.stem, "9"]
    hits = [hit.path for answer in found.answers for hit in answer.nearest]
    assert texts(tab, "article .row small") == [str(Path(hit).relative_to(music)) for hit in hits]
    scores = [f"{hit.cosine:.3f}" for answer in found.answers for hit in answer.nearest]
    assert texts(tab, ".score span") == scores
    tab.run("document.querySelector('article .row .play').click()")
    assert tab.run(PLAYED)[0]
    assert tab.run("document.querySelector('article .row .play').getAttribute('aria-pressed')") == "true"
    assert (tab.complaints(), tab.requests()) == ([], [(tmp_path / "results.html").as_uri()])


def test_words_are_queries_without_a_sound_and_words_beside_a_file_keep_it(
    tab: Tab, music: Path, pool: Pool, tmp_path: Path
) -> None:
    found = search(pool, music, music / "low" / "0.wav", k=2)
    song, (hit, *_) = found.answers[0].query, found.answers[0].nearest
    queries = ("calm </script> music " * 30, f"{song} + calm", "calm\0")
    answers = tuple(Answer(query, (hit,)) for query in queries)
    write_results(replace(found, answers=answers), music, tmp_path / "results.html")
    tab.open(tmp_path / "results.html")
    assert texts(tab, "h3") == [queries[0], "0.wav + calm", queries[2]]
    assert tab.run("data.answers.map(answer => answer.sound)") == [-1, 0, -1]
    tab.run("document.querySelector('article .track .play').click()")
    assert tab.run(PLAYED)[0]


def test_a_title_is_text(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(page, Page("results", HOSTILE, (HOSTILE,)), {"answers": []}, [], SoundOptions(), SILENT)
    tab.open(page)
    assert (tab.run("document.title"), texts(tab, "h1"), texts(tab, "header p")) == (HOSTILE, [HOSTILE], [HOSTILE])
    assert tab.complaints() == []


def test_a_map_of_five_thousand_points_is_drawn_and_clicked(tab: Tab, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 5_000
    where = rng.random((count, 2)).round(4)
    genre = Labels("genre", "class", {f"{i}.wav": f"genre {i % 14:02d}" for i in range(count)})
    paths = [f"{i}.wav" for i in range(count)]
    data = {
        "paths": paths,
        "x": where[:, 0].tolist(),
        "y": where[:, 1].tolist(),
        "near": [[(i + step) % count for step in range(1, 25)] for i in range(count)],
        "cosine": [[0.9] * 24] * count,
        "track": None,
        "columns": [encoded(genre, paths)],
        "colours": ["genre"],
    }
    page = tmp_path / "map.html"
    write_page(page, Page("map", "Many"), data, [], SoundOptions(kind="none"), SILENT)
    tab.open(page)
    assert texts(tab, "#legend span") == [f"genre {i:02d}" for i in range(14)]
    tab.key("+")
    for point in (0, 1_234, 4_999):
        tab.run(f"choose({point}, false); hover(-1)")
        assert texts(tab, "#name") == [str(point)]
        x, y = tab.run(f"[screenX({point}), screenY({point})]")
        assert tab.run(f"Math.hypot(screenX(pointAt({x}, {y}, 14)) - {x}, screenY(pointAt({x}, {y}, 14)) - {y}) < 1")
    assert tab.run("[coloursAt(0).length, coloursAt(13).length]") == [1, 0]  # twelve classes have colours
    tab.run("document.querySelectorAll('#legend button')[13].click()")
    assert tab.run("[coloursAt(0).length, coloursAt(13).length]") == [0, 1]  # alone, the fourteenth has one as well
    pixels = "[...paint.getImageData(0, 0, canvas.width, canvas.height).data].filter((v, i) => i % 4 === 3 && v).length"
    assert tab.run(pixels) > 20_000
    assert tab.complaints() == []
