"""Audio in and out: the one place that decodes (FFmpeg, through PyAV), reads and writes clips."""

import io
from pathlib import Path

import av
import numpy as np
import soundfile

from ser.run.errors import UserError

SAMPLE_RATE = 16_000  # Hz: what wav2vec 2.0 was trained on


def decode(source: str | Path, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decode the first audio stream of any file FFmpeg reads, down-mixed to mono and resampled.

    Channels are averaged here, since FFmpeg's own down-mix makes two identical ones louder in some
    formats. The FFmpeg inside the pinned PyAV wheel does the rest: the samples are the same on
    every machine, which a system's ffmpeg does not promise.

    Args:
        source: path of an audio or video file.
        rate: sampling rate to resample to, in Hz.

    Returns:
        int16 samples, shape (n,).

    Raises:
        UserError: the file is empty, has no audio stream, or is nothing FFmpeg can decode.
    """
    resampler = av.AudioResampler(format="s16p", rate=rate)
    try:
        with av.open(str(source)) as container:
            if not container.streams.audio:
                raise UserError(f"{source}: no audio stream in this file")
            decoded = [
                block for frame in container.decode(audio=0) for block in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise UserError(
            f"{source}: not an audio file that FFmpeg can read ({error.strerror})"
        ) from None
    blocks = [block.to_ndarray() for block in decoded + resampler.resample(None)] if decoded else []
    if not sum(block.shape[1] for block in blocks):
        raise UserError(f"{source}: holds no audio")
    return np.rint(np.concatenate(blocks, axis=1).mean(axis=0)).astype(np.int16)


def write(path: str | Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write int16 samples, shape (n,) or (n, channels), as a PCM_16 WAV file (whose bytes depend on
    nothing else)."""
    encoded = io.BytesIO()  # written by Python: libsndfile calls a full disk a "System error"
    soundfile.write(encoded, samples, rate, subtype="PCM_16", format="WAV")
    Path(path).write_bytes(encoded.getvalue())


def read(path: str | Path) -> np.ndarray:
    """Samples of a clip that `resample` wrote: float32 in [-1, 1], shape (n,), 16 kHz mono.

    Raises:
        UserError: the file is not a 16 kHz mono WAV file.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: not a WAV file ({error.error_string})") from None
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise UserError(
            f"{path}: expected {SAMPLE_RATE} Hz mono, found {rate} Hz, {samples[:1].size} channels"
        )
    return samples
