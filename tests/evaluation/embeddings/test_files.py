from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch import Tensor

from cluster.settings import RunError, UserError
from evaluation.embeddings.files import embed_files


class Level:
    """Embeds a chunk by its loudness and the frequency of its zero crossings."""

    width, rate, samples, hash = 2, 22_050, 4_410, "level"

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        crossings = (wave_NT[:, 1:] * wave_NT[:, :-1] < 0).float().mean(1) * self.rate / 2
        return torch.stack([wave_NT.abs().amax(1), crossings], 1)


def tone(path: Path, *, rate: int, seconds: float, hz: float = 440.0, channels: int = 1) -> Path:
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, np.stack([wave] * channels, 1), rate)
    return path


def test_a_row_a_file_whatever_its_format_and_rate(tmp_path: Path) -> None:
    files = [
        tone(tmp_path / "a.wav", rate=22_050, seconds=1.0),
        tone(tmp_path / "b.flac", rate=44_100, seconds=0.4, channels=2),
        tone(tmp_path / "c.ogg", rate=48_000, seconds=0.6),
        tone(tmp_path / "d.wav", rate=22_050, seconds=0.1),  # shorter than a chunk: repeated
    ]
    made = embed_files(Level(), files, tmp_path / "out.parquet")
    table = pq.read_table(made.path)
    assert table.column_names == ["path", "embedding"]
    assert table["path"].to_pylist() == [str(file) for file in files]
    crossings = np.array(table["embedding"].to_pylist())[:, 1]
    np.testing.assert_allclose(crossings, 440, rtol=0.03)
    assert table.schema.metadata[b"encoder"] == b"level"


def test_a_timeline_has_a_row_a_chunk_and_averages_to_the_file(tmp_path: Path) -> None:
    files = [tone(tmp_path / "a.wav", rate=22_050, seconds=0.75), tone(tmp_path / "b.wav", rate=22_050, seconds=0.2)]
    rows = pq.read_table(embed_files(Level(), files, tmp_path / "t.parquet", timeline=True).path)
    assert rows.column_names == ["path", "start_s", "embedding"]
    assert rows["start_s"].to_pylist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.0])
    mean = pq.read_table(embed_files(Level(), files, tmp_path / "m.parquet").path)["embedding"].to_pylist()
    np.testing.assert_allclose(np.mean(rows["embedding"].to_pylist()[:4], 0), mean[0], rtol=1e-5)


def test_an_unreadable_file_stops_everything_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    good = tone(tmp_path / "a.wav", rate=22_050, seconds=0.5)
    bad = tmp_path / "b.wav"
    bad.write_text("not audio")
    with pytest.raises(UserError, match=r"b\.wav: .*; nothing is written: .* embed the others with --skip-unreadable"):
        embed_files(Level(), [good, bad], tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]
    with pytest.raises(UserError, match=r"missing\.wav: no such file"):
        embed_files(Level(), [tmp_path / "missing.wav"], tmp_path / "out.parquet")


def test_unreadable_files_can_be_allowed_and_are_named(tmp_path: Path) -> None:
    good = tone(tmp_path / "a.wav", rate=22_050, seconds=0.5)
    bad = tmp_path / "b.wav"
    bad.write_text("not audio")
    made = embed_files(Level(), [bad, good], tmp_path / "out.parquet", skip_unreadable=True)
    assert made.rows == 1
    assert list(made.rejected) == [str(bad)]
    with pytest.raises(UserError, match="none of the 1 files can be read"):
        embed_files(Level(), [bad], tmp_path / "none.parquet", skip_unreadable=True)


def test_a_nan_embedding_names_its_file(tmp_path: Path) -> None:
    class Broken(Level):
        def __call__(self, wave_NT: Tensor, /) -> Tensor:
            return torch.full((len(wave_NT), 2), torch.nan)

    file = tone(tmp_path / "a.wav", rate=22_050, seconds=0.5)
    with pytest.raises(RunError, match=r"a\.wav: its embedding is not finite"):
        embed_files(Broken(), [file], tmp_path / "out.parquet")
