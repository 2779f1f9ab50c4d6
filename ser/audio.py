"""Audio in and out: the one place that decodes (FFmpeg, through PyAV), reads and writes clips."""

import contextlib
import io
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import soundfile

from ser.run.errors import UserError

SAMPLE_RATE = 16_000  # Hz: what wav2vec 2.0 was trained on

# FFmpeg's demuxers that may be used: those of recordings of sound and video. Not those of playlists
# and lists of files, which would have it open what they name.
FORMATS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "eac3", "flac", "flv",
    "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "nistsphere", "nut", "ogg", "rm",
    "sox", "tak", "tta", "voc", "w64", "wav", "wv",
)  # fmt: skip

# Bytes of a WAV file that FFmpeg reads at a time, and that it searches for DTS or AC-3 passed off
# as PCM. Its own choices, 4096 samples and 5 MB, would take longer than all else
# (benchmarks/resample.py).
WAV_BYTES = "32768"


def decode(source: str | Path, rate: int = SAMPLE_RATE, limit: float | None = None) -> np.ndarray:
    """Decode the first audio stream of a file, down-mixed to mono, resampled, its mean taken off.

    The offset that cheap sound cards and phones add is not heard, but hides what is quiet from the
    features. Channels are averaged here, since FFmpeg's own down-mix makes two identical ones
    louder in some formats. The FFmpeg inside the pinned PyAV wheel does the rest: the samples are
    the same on every machine, which a system's ffmpeg does not promise. It gets an open file, so
    that no name is taken for an address, and knows no format but `FORMATS`.

    Args:
        source: path of an audio or video file, or `-` for standard input.
        rate: sampling rate to resample to, in Hz.
        limit: seconds after which a file is refused without reading on, so that a small file of
            hours of silence takes no memory; None: there is no limit.

    Returns:
        int16 samples, shape (n,).

    Raises:
        UserError: the file cannot be opened, is empty, is longer than `limit`, has no audio stream,
            or is nothing FFmpeg can decode.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = cast("io.BufferedReader", sys.stdin.buffer)
            if source != "-":
                file = stack.enter_context(Path(source).open("rb"))
            options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
            if file.peek(12)[8:12] == b"WAVE":
                options |= {"max_size": WAV_BYTES, "probesize": WAV_BYTES}
            opened = av.open(file, "r", options=options, metadata_errors="replace")
            container = stack.enter_context(opened)
            if not container.streams.audio:
                raise UserError(f"{source}: no audio stream in this file")
            blocks = [
                # Packed: PyAV crashes on planes of eight or more channels.
                block.to_ndarray().reshape(-1, block.layout.nb_channels).mean(axis=1)
                for block in resampled(container, source, rate, limit)
            ]
    except (av.FFmpegError, ValueError) as error:  # ValueError: the format changes midway
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, av.ArgumentError):  # what a format that is not in the list gives
            reason = "a playlist, or another kind of file that is no recording"
        raise UserError(f"{source}: not an audio file that FFmpeg can read ({reason})") from None
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    samples = np.concatenate(blocks) if blocks else np.empty(0)
    if not len(samples):
        raise UserError(f"{source}: holds no audio")
    return np.rint(samples - samples.mean()).clip(-(2**15), 2**15 - 1).astype(np.int16)


def resampled(
    container: av.container.InputContainer, source: str | Path, rate: int, limit: float | None
) -> Iterator[av.AudioFrame]:
    """The blocks of the first audio stream: 16 bits, packed, `rate` Hz.

    Raises:
        UserError: there are more than `limit` seconds.
    """
    resampler = av.AudioResampler(format="s16", rate=rate)
    seconds = Fraction(0)  # a sum of floats would pass a limit that it keeps
    for frame in container.decode(audio=0):
        seconds += Fraction(frame.samples, frame.sample_rate)
        if limit is not None and seconds > limit:
            raise UserError(
                f"{source}: longer than {limit:g} s; cut it into utterances of at most that"
            )
        yield from resampler.resample(frame)
    if seconds:
        yield from resampler.resample(None)


def write(path: str | Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write int16 samples, shape (n,) or (n, channels), as a PCM_16 WAV file (whose bytes depend on
    nothing else)."""
    encoded = io.BytesIO()  # written by Python: libsndfile calls a full disk a "System error"
    soundfile.write(encoded, samples, rate, subtype="PCM_16", format="WAV")
    Path(path).write_bytes(encoded.getvalue())


def read(path: str | Path) -> np.ndarray:
    """Read a clip that `resample` wrote.

    Returns:
        float32 in [-1, 1], shape (n,), 16 kHz mono.

    Raises:
        UserError: the file is not a 16 kHz mono WAV file, or holds no sample.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: not a WAV file ({error.error_string})") from None
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise UserError(
            f"{path}: {rate} Hz, {samples[:1].size} channels; expected {SAMPLE_RATE} Hz, mono"
        )
    if not len(samples):
        raise UserError(f"{path}: holds no audio")
    return samples


def facts(path: str | Path) -> tuple[float, int, int]:
    """Seconds, sampling rate in Hz and channels that an audio file says it has.

    Raises:
        UserError: FFmpeg finds no audio in it.
    """
    with contextlib.suppress(soundfile.LibsndfileError):  # exact, where it knows the format
        header = soundfile.info(path)
        return header.frames / header.samplerate, header.samplerate, header.channels
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("audio")
            if stream is not None:
                return (container.duration or 0) / av.time_base, stream.rate, stream.channels
    except av.FFmpegError:
        pass
    raise UserError(f"{path}: not an audio file that FFmpeg can read")
