"""Audio in and out: the one place that decodes (FFmpeg, through PyAV), reads and writes clips."""

import contextlib
import io
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
import soundfile

from ser.run.errors import UserError

SAMPLE_RATE = 16_000  # Hz: what wav2vec 2.0 was trained on

# FFmpeg's demuxers that may be used: those of recordings of sound and video. Not those of playlists
# and lists of files, which would have it open what they name.
FORMATS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "avr", "caf", "dsf", "dss", "dts",
    "dtshd", "dv", "eac3", "epaf", "flac", "flv", "gsm", "gxf", "iff", "ilbc", "ircam", "loas",
    "matroska", "mlp", "mmf", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "mxf", "nistsphere",
    "nsp", "nut", "ogg", "oma", "pvf", "qcp", "qoa", "rka", "rm", "sbc", "shn", "sox", "tak",
    "truehd", "tta", "voc", "vqf", "w64", "wav", "wsd", "wtv", "wv", "xwma",
)  # fmt: skip

# Of these FFmpeg takes the duration from the size of what is there, or from the bit rate.
ESTIMATED = {"aac", "ac3", "amr", "dts", "eac3", "loas", "mpeg", "mpegts", "truehd", "wav"}

# Bytes of a WAV file that FFmpeg reads at a time, and that it searches for DTS or AC-3 passed off
# as PCM. Its own choices, 4096 samples and 5 MB, would take longer than all else
# (benchmarks/resample.py).
WAV_BYTES = "32768"

IN_MEMORY = 2**29  # bytes of a pipe, at most
UNKNOWN = 2**31 - 2**16  # bytes: what programs that write to a pipe put into a header, or more

PADDING = 0.08  # seconds that an encoder may add at the end, and a decoder takes off
MP3_DELAY = 1105  # samples that its encoders add at the start
SHORTEST = 100  # ms: the ten frames that the MFCCs' DCT over time needs; encoders need less
EDGE = 256  # samples in which the resampler may ring
SILENCE = 8  # steps of 16 bits from the lowest to the highest sample: dither, and no more
BEYOND = 4  # full scale: no decoder overshoots as far


class LengthError(UserError):
    """A recording that is longer than a limit."""


@dataclass
class Tally:
    """What has been read of a recording.

    Attributes:
        seconds: decoded; a sum of floats would pass a limit that it keeps.
        packets: met.
        bad: those that cannot be decoded, or end early.
        samples: of all channels, at the rate that is asked for.
        clipped: those that lie beyond full scale.
    """

    seconds: Fraction = Fraction(0)
    packets: int = 0
    bad: int = 0
    samples: int = 0
    clipped: int = 0


def decode(
    source: str | Path, rate: int = SAMPLE_RATE, limit: float | None = None
) -> tuple[np.ndarray, list[str]]:
    """Decode the audio of a file, see `pieces`, its mean taken off.

    The offset that cheap sound cards and phones add is not heard, but hides what is quiet from the
    features.

    Args:
        source: path of an audio or video file, or `-` for standard input.
        rate: sampling rate to resample to, in Hz.
        limit: seconds after which a file is refused without reading on, so that a small file of
            hours of silence takes no memory; None: there is no limit.

    Returns:
        int16 samples, shape (n,); a line for each thing that whoever hears of them should know,
        such as how much of the file could not be read.

    Raises:
        LengthError, UserError: as `pieces`; or what the file holds is silence.
    """
    notes: list[str] = []
    samples = np.concatenate(list(pieces(source, notes, rate, limit)))
    if np.ptp(samples[EDGE:-EDGE]) < SILENCE:
        raise UserError(f"{source}: holds nothing but silence")
    return centred(samples), notes


def centred(samples: np.ndarray) -> np.ndarray:
    """Samples in steps of 16 bits, their mean taken off, as int16."""
    return np.rint(samples - samples.mean()).clip(-(2**15), 2**15 - 1).astype(np.int16)


def pieces(
    source: str | Path,
    notes: list[str],
    rate: int = SAMPLE_RATE,
    limit: float | None = None,
    size: int | None = None,
) -> Iterator[np.ndarray]:
    """Decode the audio of a file piece by piece, down-mixed to mono, resampled.

    Of several audio streams FFmpeg's choice is taken: the default one. What cannot be decoded is
    left out. Channels are averaged here, since FFmpeg's own down-mix makes two identical ones
    louder in some formats. The FFmpeg inside the pinned PyAV wheel does the rest: the samples are
    the same on every machine, which a system's ffmpeg does not promise. It gets an open file, so
    that no name is taken for an address, and knows no format but `FORMATS`.

    Args:
        source, rate, limit: as `decode`'s.
        notes: takes on, at the end, a line for each thing that should be known.
        size: samples of a piece, so that a recording of hours takes no more memory than a short
            one; None: all that has the same rate, channels and format.

    Yields:
        float64 samples in steps of 16 bits, shape (n,).

    Raises:
        UserError: the file cannot be opened, is empty, is longer than `limit`, has no audio stream,
            or is nothing FFmpeg can decode; or what it holds is shorter than `SHORTEST`, not finite
            or far beyond full scale.
    """
    tally, found = Tally(), []
    try:
        with contextlib.ExitStack() as stack:
            if source != "-":
                file = Content(stack.enter_context(Path(source).open("rb")), source)
            elif sys.stdin is None:
                raise UserError("-: standard input is closed")
            else:
                file = Content(sys.stdin.buffer, source)
            options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
            if file.head(12)[8:] == b"WAVE":
                options |= {"max_size": WAV_BYTES, "probesize": WAV_BYTES}
            container = stack.enter_context(
                av.open(file, "r", options=options, metadata_errors="replace")
            )
            stream = cast("av.AudioStream | None", container.streams.best("audio"))
            if stream is None:
                raise UserError(f"{source}: no audio stream in this file")
            tracks = container.streams.audio
            if len(tracks) > 1:
                found.append(
                    f"has {len(tracks)} audio tracks; number {tracks.index(stream) + 1} is used"
                )
            frames = decoded(container, stream, tally, source, limit)
            for piece in resampled(frames, rate, size):
                yield mono(piece, str(source), tally, found)
            tally.bad += container.format.name == "ogg" and is_cut(file)
            found += damage(tally, whole(container, stream, file, tally.seconds))
    except av.FFmpegError as error:
        reason = error.strerror
        if isinstance(error, av.ArgumentError):  # what a format that is not in the list gives
            reason = "damaged, or of a format that holds no recording, such as lists of files"
        raise UserError(f"{source}: not an audio file that FFmpeg can read ({reason})") from None
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    if not tally.seconds:
        broken = f": none of its {tally.packets} packets can be decoded" if tally.bad else ""
        raise UserError(f"{source}: holds no audio{broken}")
    if (length := int(1000 * tally.seconds)) < SHORTEST:
        raise UserError(f"{source}: too short: {length} ms; expected {SHORTEST} ms at least")
    notes += dict.fromkeys(found)


class Content:
    """A file for FFmpeg, from behind the ID3 tags that other programs put before any format, and
    that it expects before few.

    A pipe is read into memory, since the index of an MP4 may stand last. Where damage leads FFmpeg
    to a place that there is not, `seek` answers with a number as FFmpeg's own files do; an
    exception would end the reading.
    """

    def __init__(self, file: BinaryIO, source: str | Path):
        """Wrap `file`, which messages call `source`.

        Raises:
            UserError: a pipe holds more than `IN_MEMORY`.
        """
        if not file.seekable():
            content = file.read(IN_MEMORY + 1)
            if len(content) > IN_MEMORY:
                raise UserError(f"{source}: a pipe with more than {IN_MEMORY >> 20} MiB")
            file = io.BytesIO(content)
        self.file, self.start = file, 0
        while len(tag := self.head(10)) == 10 and tag.startswith(b"ID3"):
            shifts = (21, 14, 7, 0)
            length = sum((byte & 127) << by for byte, by in zip(tag[6:], shifts, strict=True))
            self.start += 10 + length + (10 if tag[5] & 16 else 0)  # with a footer
        self.size = self.seek(0, io.SEEK_END)
        self.seek(0)

    def head(self, size: int) -> bytes:
        """The first bytes."""
        self.seek(0)
        first = self.read(size)
        self.seek(0)
        return first

    def read(self, size: int) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            at = self.file.seek(offset + (0 if whence else self.start), whence)
        except (OSError, ValueError, OverflowError):
            return -1
        return at - self.start

    def tell(self) -> int:
        return self.file.tell() - self.start


def decoded(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    tally: Tally,
    source: str | Path,
    limit: float | None,
) -> Iterator[av.AudioFrame]:
    """The frames of a stream that can be decoded; the others are counted.

    Raises:
        UserError: there are more than `limit` seconds.
    """
    try:
        for packet in container.demux(stream):
            tally.packets += packet.size > 0
            # Not in a WAV file, where so ends every one of unknown length.
            tally.bad += packet.is_corrupt and container.format.name != "wav"
            try:
                frames = packet.decode()
            except av.FFmpegError:
                tally.bad += not packet.is_corrupt
                continue
            for frame in frames:
                tally.seconds += Fraction(frame.samples, frame.sample_rate)
                if limit is not None and tally.seconds > limit:
                    raise LengthError(
                        f"{source}: longer than {limit:g} s; cut it into utterances of at most that"
                    )
                yield frame
    except av.FFmpegError:  # of the container: what follows cannot be found
        tally.packets += 1
        tally.bad += 1


def resampled(frames: Iterable[av.AudioFrame], rate: int, size: int | None) -> Iterator[np.ndarray]:
    """Samples at `rate` Hz, in steps of 16 bits, shape (n, channels), for each run of frames of the
    same rate, channels and format, which may change midway.

    Those of integers are int16; those of floats are float64 and go beyond, if the frames do.

    Args:
        size: samples at a time, at the end up to twice as many; None: the whole run.
    """

    def kind(frame: av.AudioFrame) -> tuple[str, str, int]:
        return frame.format.name, frame.layout.name, frame.sample_rate

    for (name, *_), run in itertools.groupby(frames, kind):
        # Packed: PyAV crashes on planes of eight or more channels.
        form = "flt" if name.startswith(("flt", "dbl")) else "s16"
        resampler = av.AudioResampler(format=form, rate=rate)
        blocks: list[np.ndarray] = []
        length = 0
        for frame in itertools.chain(run, [None]):
            for block in resampler.resample(frame):
                blocks.append(block.to_ndarray().reshape(-1, block.layout.nb_channels))
                length += block.samples
            # Twice as many, lest the last piece be too short to tell how its channels relate.
            if blocks and (frame is None or (size is not None and length >= 2 * size)):
                at = length if frame is None or size is None else size
                values, rest = np.split(np.concatenate(blocks), [at])
                blocks, length = [rest], len(rest)
                if form == "flt":
                    with np.errstate(invalid="ignore"):  # a signalling NaN: `mono` refuses it
                        values = values.astype(np.float64) * 2**15
                yield values


def mono(values: np.ndarray, source: str, tally: Tally, notes: list[str]) -> np.ndarray:
    """The average of the channels; the loudest of channels that cancel each other out.

    Args:
        values: of `resampled`.
        source: name for messages.
        tally: counts samples, and those beyond full scale.
        notes: takes on what should be known.

    Raises:
        UserError: samples are not finite, or far beyond full scale.
    """
    tally.samples += values.size
    if values.dtype != np.int16:
        peaks = np.abs(values) / 2**15
        if not np.isfinite(peaks).all():
            raise UserError(f"{source}: holds samples that are not numbers, or infinite")
        if (peaks > BEYOND).mean() > 1e-3:
            raise UserError(
                f"{source}: holds floating-point samples up to {peaks.max():.4g}; expected -1 to 1"
            )
        tally.clipped += int((peaks > 1).sum())
        values = values.clip(-(2**15), 2**15 - 1)
    average, channels = values.mean(axis=1, dtype=np.float64), values.shape[1]
    # Channels that have nothing to do with each other leave one `channels`th of their power.
    power = values.var(axis=0, dtype=np.float64)
    if average.var() < power.mean() / (4 * channels):
        notes.append(f"its {channels} channels cancel each other out; the loudest one is used")
        return values[:, power.argmax()].astype(np.float64)
    return average


def whole(
    container: av.container.InputContainer, stream: av.AudioStream, file: Content, seconds: Fraction
) -> Fraction | None:
    """The seconds that a recording has by its header; None where that does not say.

    Args:
        seconds: that were read.
    """
    head, name = file.head(80), container.format.name
    claimed = int.from_bytes(head[4:8], "little") + 8
    if head.startswith(b"RIFF") and file.size < claimed < UNKNOWN:
        return seconds * claimed / file.size
    if name == "mp3":
        mark = max(head.find(b"Xing"), head.find(b"Info"))
        if mark < 0 or not head[mark + 7] & 1:
            return None
        frames = int.from_bytes(head[mark + 8 : mark + 12])
        return Fraction(frames * stream.frame_size - MP3_DELAY, stream.sample_rate)
    if name in ESTIMATED:
        return None
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return None


def is_cut(file: Content) -> bool:
    """True for an Ogg file that ends within a page: nothing else tells that it is cut off."""
    file.seek(max(0, file.size - 2**16))
    *_, page = file.read(2**16).rpartition(b"OggS")
    return len(page) < 23 or len(page) < 23 + page[22] + sum(page[23 : 23 + page[22]])


def damage(tally: Tally, expected: Fraction | None) -> list[str]:
    """Lines on what was clipped and on what could not be read, if there is such.

    Args:
        expected: seconds of the whole recording, if they are known.
    """
    lines = []
    if tally.clipped > 1e-3 * tally.samples:
        share = tally.clipped / tally.samples
        lines.append(f"{share:.1%} of the samples lie beyond full scale and are clipped")
    seconds, there = float(tally.seconds), float(expected or 0)
    if there - seconds > min(PADDING, there / 5):
        lines.append(f"cut off or damaged: {seconds:.2f} s of {there:.2f} s could be read")
    elif tally.bad:
        lines.append(
            f"cut off or damaged: {tally.bad} of {tally.packets} packets could not be read; "
            f"{seconds:.2f} s could"
        )
    return lines


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
            stream = cast("av.AudioStream | None", container.streams.best("audio"))
            if stream is not None:
                return (container.duration or 0) / av.time_base, stream.rate, stream.channels
    except av.FFmpegError:
        pass
    raise UserError(f"{path}: not an audio file that FFmpeg can read")
