"""Audio, spectrogram and loudness of a clip, for the page.

Samples are float32 in [-1, 1], shape (n,), 16 kHz mono.
"""

import io

import av
import librosa
import numpy as np
from matplotlib import colormaps
from PIL import Image

from ser.audio import SAMPLE_RATE

BITS = 24_000  # per second, at most: at 16 kHz Opus hides what it leaves out
HOP = SAMPLE_RATE // 100  # samples from one column of the spectrogram to the next
BANDS = 64  # mel bands up to 8 kHz, the rows of the spectrogram
RANGE = 70  # dB under the clip's peak that the spectrogram shows
QUIETEST = -70  # dB relative to full scale: what loudness begins at
STEPS = 80  # of the curve of loudness


def opus(samples: np.ndarray) -> bytes:
    """Encode a clip as Opus in WebM, which every browser of today plays; of the same samples the
    same bytes."""
    encoded = io.BytesIO()
    # Without bitexact each file gets a number drawn at random.
    with av.open(encoded, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        options = {"flags": "+bitexact", "frame_duration": "60"}  # ms: fewer headers than the usual
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, options=options)
        stream.bit_rate, stream.layout = BITS, "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (frame, None):  # None: the rest that the encoder holds
            for packet in stream.encode(part):
                container.mux(packet)
    return encoded.getvalue()


def spectrogram(samples: np.ndarray) -> bytes:
    """Draw a clip's mel spectrogram, the lowest band at the bottom, brightest at the clip's peak: a
    WebP picture, 100 columns a second, `BANDS` rows."""
    power = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE, n_fft=512, hop_length=HOP, n_mels=BANDS
    )
    shares = librosa.power_to_db(power, ref=np.max, top_db=RANGE)[::-1] / RANGE + 1
    colours = colormaps["magma"](shares, bytes=True)[..., :3]
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(encoded, "WEBP", quality=50)
    return encoded.getvalue()


def loudness(samples: np.ndarray) -> list[int]:
    """The level of each of `STEPS` equal parts of a clip, in dB relative to full scale, from
    `QUIETEST` to 0."""
    levels = [np.sqrt(np.mean(part**2)) for part in np.array_split(samples, STEPS) if len(part)]
    decibels = librosa.amplitude_to_db(np.array(levels), ref=1.0, amin=1e-6, top_db=None)
    return [int(level) for level in np.rint(np.clip(decibels, QUIETEST, 0))]
