"""Building: the same bytes for the same input, nothing done twice after a kill, nothing half-written on refusal."""

import errno
import gc
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from cluster.imports import import_alone
from cluster.settings import ROOT, RunError, UserError
from data_shards.audio.decode import AudioError
from data_shards.build import writer
from data_shards.build.build import BuildConfig, BuildJob, Progress, build, build_shard
from data_shards.build.index_writer import index_shards
from data_shards.build.writer import ShardResult
from data_shards.format.index import read_index
from data_shards.format.records import Clip, Listing
from data_shards.inspect.show import describe, summarise
from data_shards.inspect.verify import verify
from data_shards.read.reader import ShardSet
from data_shards.sources.folder import read_folder

MakeFolder = Callable[..., tuple[Path, Path]]
INLINE = BuildConfig(clips_per_shard=3, workers=1)


def digests(folder: Path) -> dict[str, str]:
    names = [path for path in folder.iterdir() if path.name != "build.json"]  # holds this machine's paths
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


@dataclass(frozen=True)
class BrokenAudio:
    """Always refused."""

    name: str = "broken"

    def read(self) -> tuple[NDArray[np.float32], int]:
        raise AudioError("broken on purpose")


# --- determinism ---


@pytest.mark.parametrize("codec", ["pcm16", "flac"])
def test_the_same_input_gives_the_same_bytes_wherever_and_however_it_is_built(
    make_folder: MakeFolder, tmp_path: Path, codec: str
) -> None:
    config = replace(INLINE, codec="flac" if codec == "flac" else "pcm16")
    one = read_folder(*make_folder(8, name="here")).clips
    two = read_folder(*make_folder(8, name="there")).clips
    build(one, tmp_path / "one", config)

    def backwards(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        return map(function, reversed(jobs))

    build(two, tmp_path / "two", replace(config, workers=2), map_jobs=backwards)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_process_pool_gives_the_same_bytes(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(8)).clips
    build(clips, tmp_path / "one", INLINE)
    build(clips, tmp_path / "two", replace(INLINE, workers=2))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_what_is_read_back_is_what_was_written(make_folder: MakeFolder, tmp_path: Path) -> None:
    audio, labels = make_folder(8)
    listing = read_folder(audio, labels)
    build(listing.clips, tmp_path / "set", INLINE)
    with ShardSet.open(tmp_path / "set") as shards:
        for row, clip in enumerate(listing.clips):
            samples, _ = soundfile.read(clip.audio.name, dtype="int16")
            assert shards.index.key[row] == clip.key
            assert np.array_equal(shards.read_window(row, 0, len(samples)), samples)
    assert verify(tmp_path / "set") == []


# --- resuming ---


def test_finished_shards_are_kept_and_the_rest_is_done(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(12)).clips
    build(clips, tmp_path / "whole", INLINE)

    def interrupted(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        yield function(jobs[2])
        yield function(jobs[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(clips, tmp_path / "set", INLINE, map_jobs=interrupted)
    assert not (tmp_path / "set").exists()
    kept = {
        name: (tmp_path / "set.partial" / name).stat().st_mtime_ns for name in ("shard-00000.tar", "shard-00002.tar")
    }
    seen: list[Progress] = []
    summary = build(clips, tmp_path / "set", INLINE, progress=seen.append)
    assert summary.resumed_shards == 2
    assert seen[-1].resumed == 6
    assert seen[-1].done == seen[-1].total == 12
    assert kept == {name: (tmp_path / "set" / name).stat().st_mtime_ns for name in kept}
    assert digests(tmp_path / "set") == digests(tmp_path / "whole")
    assert not (tmp_path / "set.partial").exists()
    build(clips, tmp_path / "set", INLINE, progress=seen.append)
    assert seen[-1] == Progress(done=12, total=12, rejected=0, resumed=12)


def test_a_shard_whose_input_or_bytes_changed_is_done_again(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(9)).clips

    def interrupted(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        yield from [function(job) for job in jobs]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(clips, tmp_path / "set", INLINE, map_jobs=interrupted)
    soundfile.write(clips[1].audio.name, np.ones(5_000, np.int16), 22_050)
    with (tmp_path / "set.partial" / "shard-00001.tar").open("r+b") as file:
        file.seek(3_000)
        file.write(b"damage")
    assert build(clips, tmp_path / "set", INLINE).resumed_shards == 1
    assert verify(tmp_path / "set") == []
    with ShardSet.open(tmp_path / "set") as shards:
        assert shards.index.frames[1] == 5_000


def test_clips_that_another_program_rejected_are_tried_again(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = list(read_folder(*make_folder(9)).clips)
    clips[4] = replace(clips[4], audio=BrokenAudio())
    with pytest.raises(UserError, match="1 of the first 6 clips were rejected"):
        build(clips, tmp_path / "set", INLINE)
    monkeypatch.setattr(writer, "program", lambda: "another")
    summary = build(clips, tmp_path / "set", replace(INLINE, max_rejected=0.2))
    assert summary.resumed_shards == 1, "the shard without a rejected clip is kept"
    assert [one.key for one in summary.rejected] == [clips[4].key]


KILLED_BUILD = """
import sys
from pathlib import Path
from data_shards.build.build import BuildConfig, build
from data_shards.sources.folder import read_folder
if __name__ == "__main__":
    audio, labels, out = map(Path, sys.argv[1:])
    show = lambda progress: print(progress.done, progress.resumed, flush=True)
    build(read_folder(audio, labels).clips, out, BuildConfig(clips_per_shard=2, workers=2), progress=show)
"""


def test_a_build_killed_with_nine_goes_on_where_it_was(make_folder: MakeFolder, tmp_path: Path) -> None:
    audio, labels = make_folder(40, frames=60_000)
    script = tmp_path / "killed_build.py"
    script.write_text(KILLED_BUILD)
    command = [sys.executable, str(script), str(audio), str(labels), str(tmp_path / "set")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for _ in range(random.Random(0).randrange(3, 7)):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()
    assert not (tmp_path / "set").exists()
    finished = len(list((tmp_path / "set.partial").glob("shard-*.tar.json")))
    assert 3 <= finished < 20
    clips = read_folder(audio, labels).clips
    config = BuildConfig(clips_per_shard=2, workers=1)
    summary = build(clips, tmp_path / "set", config)
    assert summary.resumed_shards >= finished  # a worker may have finished its shard while it died
    assert summary.clips == 40
    build(clips, tmp_path / "whole", config)
    assert digests(tmp_path / "set") == digests(tmp_path / "whole")


def test_workers_do_not_outlive_a_killed_build(make_folder: MakeFolder, tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(
        "import os, sys, time\n"
        "from cluster.processes.map import local_map\n"
        "def work(number):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(local_map(work, [1, 2], workers=2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # the pipe ends when the last process that holds it is gone
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(Path(f"/proc/{pid}/exe").is_symlink() and running(pid) for pid in workers)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_finished_set_is_left_alone_and_another_is_not_overwritten(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(6)).clips
    first = build(clips, tmp_path / "set", INLINE)

    def never(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        raise AssertionError("no work is left")

    again = build(clips, tmp_path / "set", INLINE, map_jobs=never)
    assert again.manifest_hash == first.manifest_hash
    assert again.resumed_shards == 2
    with pytest.raises(UserError, match="holds another set of shards; delete it, or give another folder"):
        build(clips[:4], tmp_path / "set", INLINE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with pytest.raises(UserError, match="is no set of shards"):
        build(clips, tmp_path / "other", INLINE)
    assert (tmp_path / "other" / "precious").exists()
    (tmp_path / "empty").mkdir()
    assert build(clips, tmp_path / "empty", INLINE).clips == 6


def test_two_builds_into_one_folder_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(6)).clips

    def nested(function: Callable[[BuildJob], ShardResult], jobs: Sequence[BuildJob]) -> Iterable[ShardResult]:
        with pytest.raises(UserError, match=r"another process is running there.*give another --out"):
            build(clips, tmp_path / "set", INLINE)
        return map(function, jobs)

    assert build(clips, tmp_path / "set", INLINE, map_jobs=nested).clips == 6


# --- refusals ---


def test_too_many_rejected_clips_fail_the_build_and_what_was_done_is_kept(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    clips = list(read_folder(*make_folder(9)).clips)
    clips[4] = replace(clips[4], audio=BrokenAudio())
    with pytest.raises(UserError, match=r"(?s)1 of the first 6 clips were rejected \(9 in all\).*broken on purpose"):
        build(clips, tmp_path / "set", INLINE)
    assert not (tmp_path / "set").exists()
    summary = build(clips, tmp_path / "set", replace(INLINE, max_rejected=0.2))
    assert (summary.clips, summary.resumed_shards) == (8, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["music", "music.csv", "set"]
    assert [(one.key, one.why) for one in summary.rejected] == [(clips[4].key, "broken on purpose")]
    assert summarise(read_index(tmp_path / "set"))["rejected"] == {clips[4].key: "broken on purpose"}


def test_a_set_of_rejected_clips_only_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    clips = [Clip(key=f"c{number}", audio=BrokenAudio(), track="t") for number in range(5)]
    with pytest.raises(UserError, match="5 of the first 5 clips"):
        build(clips, tmp_path / "set", replace(INLINE, max_rejected=1.0))
    assert list(tmp_path.iterdir()) == []


def test_a_shard_of_rejected_clips_only_is_left_out(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = [replace(clip, audio=BrokenAudio()) if 3 <= number < 6 else clip
             for number, clip in enumerate(read_folder(*make_folder(9)).clips)]  # fmt: skip
    build(clips, tmp_path / "set", replace(INLINE, max_rejected=0.5))
    assert [path.name for path in sorted((tmp_path / "set").glob("*.tar"))] == ["shard-00000.tar", "shard-00002.tar"]
    assert verify(tmp_path / "set") == []


def test_keys_are_checked_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no clips"):
        build([], tmp_path / "set", INLINE)
    clip = Clip(key="a", audio=BrokenAudio("one"), track="t")
    with pytest.raises(UserError, match="key a is used twice, by one and by two"):
        build([clip, replace(clip, audio=BrokenAudio("two"))], tmp_path / "set", INLINE)
    for key in ("", "a/b", "../a", "a.b", "ä", "a" * 91, "a\n"):
        with pytest.raises(UserError, match="must be 1 to 90 letters, digits"):
            build([replace(clip, key=key)], tmp_path / "set", INLINE)


def test_a_given_vocabulary_keeps_its_order_and_refuses_others(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(6)).clips
    order = {"tags": ("dark", "unused", "calm")}
    build(Listing(clips, order, ("a note on the set",)), tmp_path / "set", INLINE)
    index = read_index(tmp_path / "set")
    assert index.vocabularies == order
    assert summarise(index)["notes"] == ["a note on the set"]
    assert "note      a note on the set" in describe(index)
    assert index.labels("tags")[1].tolist() == [True, False, True]
    with pytest.raises(UserError, match="tags dark not in the given vocabulary"):
        build(Listing(clips, {"tags": ("calm",)}), tmp_path / "other", INLINE)


def test_tracks_that_leak_between_splits_are_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    audio, labels = make_folder(6, track_id=["a", "a", "b", "b", "c", "c"])  # the fourth is validation, the sixth test
    summary = build(read_folder(audio, labels).clips, tmp_path / "set", INLINE)
    assert summary.leaking_tracks == ("b", "c")


@pytest.mark.parametrize(
    "fields", [{"rate": 1}, {"clips_per_shard": 0}, {"shortest_s": -1.0}, {"max_rejected": 1.1}, {"workers": -1}]
)
def test_a_setting_out_of_range_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))} must"):
        BuildConfig(**fields)  # type: ignore[arg-type]  # one field of either type


# --- webdataset, both ways ---


def test_building_imports_no_torch_and_webdataset_is_whole_afterwards(tmp_path: Path) -> None:
    """Every process that builds would take seconds more."""
    code = f"""
import sys
from pathlib import Path
from data_shards.build.build import BuildConfig, build
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
clips = corpus(SyntheticConfig(tracks=2, seconds=3.0, valid_share=0.0, test_share=0.0))
build(clips, Path({str(tmp_path / "set")!r}), BuildConfig(workers=1))
assert "torch" not in sys.modules
import webdataset
assert webdataset.ShardWriter.__init__.__module__ == webdataset.writer.__name__ and webdataset.WebDataset
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("codec", ["pcm16", "flac"])
def test_the_webdataset_library_reads_our_shards(make_folder: MakeFolder, tmp_path: Path, codec: str) -> None:
    import webdataset

    clips = read_folder(*make_folder(8)).clips
    build(clips, tmp_path / "set", replace(INLINE, codec="flac" if codec == "flac" else "pcm16"))
    urls = sorted(str(path) for path in (tmp_path / "set").glob("*.tar"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves its files to the garbage collector
        samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
        gc.collect()
    assert [sample["__key__"] for sample in samples] == [clip.key for clip in clips]
    for sample, clip in zip(samples, clips, strict=True):
        wave, rate = soundfile.read(io.BytesIO(sample["wav" if codec == "pcm16" else "flac"]), dtype="int16")
        assert rate == 22_050
        assert np.array_equal(wave, soundfile.read(clip.audio.name, dtype="int16")[0])
        assert sample["json"]["multilabel"]["tags"] == list(clip.multilabel["tags"])
        assert sample["json"]["numeric"] == clip.numeric


def test_we_read_shards_that_the_webdataset_library_wrote(tmp_path: Path) -> None:
    import webdataset

    waves = np.random.default_rng(0).integers(-9_000, 9_000, (6, 3_000)).astype(np.int16)
    with webdataset.ShardWriter(str(tmp_path / "foreign-%03d.tar"), maxcount=4, verbose=0) as writer:
        for number, wave in enumerate(waves):
            buffer = io.BytesIO()
            soundfile.write(buffer, wave, 16_000, format="WAV" if number % 2 else "FLAC", subtype="PCM_16")
            labels = {"multilabel": {"tags": ["b", "a"][: number % 3]}, "something": "else"}
            key = f"folder/{'long' * 30}/{number:04d}"  # beyond the 100 bytes of a plain header
            writer.write({"__key__": key, "wav" if number % 2 else "flac": buffer.getvalue(), "json": labels})
    manifest = index_shards(tmp_path)
    assert manifest["clips"] == 6
    assert verify(tmp_path) == []
    with ShardSet.open(tmp_path) as shards:
        assert shards.rate == 16_000
        assert shards.index.labels("tags").astype(int).tolist() == [[0, 0], [0, 1], [1, 1]] * 2
        for row, wave in enumerate(waves):
            assert np.array_equal(shards.read_window(row, 100, 2_000), wave[100:2_100])


# --- what is reported ---


def test_the_manifest_and_the_summary_tell_what_is_there(make_folder: MakeFolder, tmp_path: Path) -> None:
    build(read_folder(*make_folder(12)).clips, tmp_path / "set", INLINE)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["clips"] == 12
    assert [shard["clips"] for shard in manifest["shards"]] == [3, 3, 3, 3]
    facts = summarise(read_index(tmp_path / "set"))
    assert facts["labelled"] == {"tags": 6}
    assert facts["labels"]["bpm"] == {"known": 12}
    assert json.loads(json.dumps(facts)) == facts
    text = describe(read_index(tmp_path / "set"))
    assert "12 in 4 shards" in text
    assert "train 6, valid 4, test 2" in text
    assert "calm 6, dark 6" in text


def test_build_shard_is_a_function_of_its_job(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(3)).clips
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.append(build_shard(BuildJob(number=7, clips=clips, folder=str(tmp_path / name), config=INLINE)))
    assert results[0] == results[1]
    assert results[0].shard is not None
    assert results[0].shard.name == "shard-00007.tar"


def test_a_full_disk_is_reported_and_leaves_no_partial_shard(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(import_alone("webdataset.writer").TarWriter, "write", full)
    with pytest.raises(RunError, match=r"shard-00000\.tar: the disk is full"):
        build(read_folder(*make_folder(2)).clips, tmp_path / "set", BuildConfig(workers=1))
    assert not list(tmp_path.glob("set*"))
