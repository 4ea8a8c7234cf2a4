"""musicnn behind a pipe: patches of audio in, features out. It runs in its own environment (`benchmarks.musicnn`).

    PYTHON benchmarks/musicnn_server.py MTT_musicnn

The graph is built once. What it writes first is a line of JSON: the width of every feature and a hash of the weights.
Then for each int32 N and N × `SAMPLES` float32 at 16 kHz it answers N rows of float32, the features side by side. The
spectrogram is that of `musicnn.extractor.batch_data`, half precision included.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

RATE, SAMPLES = 16_000, 48_000
"""Of a patch: 3 s, as the models were trained."""
FEATURES = ("mean_pool", "penultimate")


def main(model: str, source: BinaryIO, sink: BinaryIO) -> None:
    import librosa
    import tensorflow as tf
    from musicnn import configuration, extractor, models  # its extractor leaves eager mode

    hop, size = configuration.FFT_HOP, configuration.FFT_SIZE
    frames = int(librosa.time_to_frames(3, sr=RATE, n_fft=size, hop_length=hop)) + 1
    labels = configuration.MTT_LABELS if model.startswith("MTT") else configuration.MSD_LABELS
    with tf.name_scope("model"):
        patches = tf.compat.v1.placeholder(tf.float32, [None, frames, configuration.N_MELS])
        training = tf.compat.v1.placeholder(tf.bool)
        *_, mean_pool, _, penultimate = models.define_model(patches, training, model, len(labels))
    threads = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = tf.compat.v1.Session(config=threads)
    weights = Path(extractor.__file__).parent / model
    tf.compat.v1.train.Saver().restore(session, f"{weights}/")

    def spectrogram(wave_T: Any) -> Any:
        mel = librosa.feature.melspectrogram(
            y=wave_T, sr=RATE, hop_length=hop, n_fft=size, n_mels=configuration.N_MELS
        ).T.astype(np.float16)
        return np.log10(10_000 * mel + 1)[:frames]

    digest = hashlib.sha256()
    for file in sorted(weights.iterdir()):
        digest.update(file.read_bytes())
    widths = [int(feature.shape[-1]) for feature in (mean_pool, penultimate)]
    about = {"widths": dict(zip(FEATURES, widths, strict=True)), "hash": digest.hexdigest()}
    sink.write(json.dumps(about).encode() + b"\n")
    sink.flush()
    while head := source.read(4):
        count = int(np.frombuffer(head, np.int32)[0])
        wave_NT = np.frombuffer(source.read(4 * count * SAMPLES), np.float32).reshape(count, SAMPLES)
        given = {patches: np.stack([spectrogram(wave_T) for wave_T in wave_NT]), training: False}
        found = session.run([mean_pool, penultimate], given)
        sink.write(np.concatenate(found, 1).astype(np.float32).tobytes())
        sink.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
