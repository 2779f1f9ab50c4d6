"""Audio in and out: what decoding keeps, what it refuses, and how much memory it takes."""

import socket
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from ser import audio
from ser.run import errors
from stages import resample


def tone(seconds: float = 0.5, rate: int = 48_000, level: float = 0.25) -> np.ndarray:
    wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return (level * 32767 * wave).astype(np.int16)


def decoded(path: Path, limit: float | None = None) -> np.ndarray:
    """Samples of a file of which nothing is noted."""
    samples, notes = audio.decode(path, limit=limit)
    assert not notes
    return samples


def test_identical_channels_keep_their_level(tmp_path):
    """Also where FFmpeg's own down-mix would make them louder."""
    mono = tone() / 32768
    for subtype in ("PCM_16", "FLOAT"):
        soundfile.write(tmp_path / "mono.wav", mono, 48_000, subtype=subtype)
        stereo = np.column_stack([mono, mono])
        soundfile.write(tmp_path / "stereo.wav", stereo, 48_000, subtype=subtype)
        np.testing.assert_array_equal(
            decoded(tmp_path / "stereo.wav"), decoded(tmp_path / "mono.wav")
        )


def test_a_wav_file_is_read_whatever_stands_before_its_samples(tmp_path):
    soundfile.write(tmp_path / "plain.wav", tone(), 48_000)
    riff = (tmp_path / "plain.wav").read_bytes()
    size = 4 * int(audio.WAV_BYTES)
    chunk = b"JUNK" + size.to_bytes(4, "little") + bytes(size)
    whole = len(riff) + len(chunk) - 8
    late = riff[:4] + whole.to_bytes(4, "little") + riff[8:12] + chunk + riff[12:]
    (tmp_path / "late.wav").write_bytes(late)
    np.testing.assert_array_equal(decoded(tmp_path / "late.wav"), decoded(tmp_path / "plain.wav"))


def test_resampling_keeps_pitch_level_and_length(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(), 48_000)
    samples = decoded(tmp_path / "tone.wav")
    assert samples.dtype == np.int16
    assert abs(len(samples) - 8000) <= 1
    middle = samples[2000:6000] / 32768
    assert abs(np.abs(np.fft.rfft(middle * np.hanning(4000))).argmax() * 4 - 440) <= 4
    assert np.std(middle) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("offset", [0.001, 0.01, -0.2])
def test_an_offset_makes_no_difference(tmp_path, offset):
    wave = tone() / 32768
    for name, samples in {"plain": wave, "offset": wave + offset}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 48_000, subtype="FLOAT")
    plain, shifted = (decoded(tmp_path / f"{name}.wav").astype(int) for name in ("plain", "offset"))
    # The resampler meets the offset as a step at both ends.
    assert np.abs(plain - shifted)[200:-200].max() <= 1


@pytest.mark.parametrize("channels", [6, 8, 24])
def test_channels_are_averaged_however_many(tmp_path, channels):
    waves = np.stack([tone(level=0.01 * (number + 1)) for number in range(channels)], axis=1)
    soundfile.write(tmp_path / "many.wav", waves, 48_000)
    soundfile.write(tmp_path / "one.wav", waves.mean(1).round().astype(np.int16), 48_000)
    many, one = (decoded(tmp_path / f"{name}.wav").astype(int) for name in ("many", "one"))
    assert np.abs(many - one).max() <= 1


@pytest.mark.parametrize("name", ["tone.mp3", "video.mp4"])
def test_compressed_audio_is_read_too(tmp_path, name):
    """Also a video's, and with names in another encoding than UTF-8."""
    with av.open(str(tmp_path / name), "w", metadata_encoding="latin-1") as container:
        container.metadata["title"] = "Öl"
        if name == "video.mp4":
            picture = container.add_stream("mpeg4", rate=10)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        stream = container.add_stream("mp3", rate=44_100, layout="stereo")
        if name == "video.mp4":
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux([*picture.encode(image), *picture.encode(None)])
        frame = av.AudioFrame.from_ndarray(
            np.stack([tone(rate=44_100)] * 2), format="s16p", layout="stereo"
        )
        frame.rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples = decoded(tmp_path / name) / 32768
    # 3 dB too loud would be 41 %
    assert np.std(samples[2000:6000]) == pytest.approx(0.25 / np.sqrt(2), rel=0.1)


def test_resample_names_a_file_that_is_not_audio_and_keeps_the_older_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, output = Path("data/raw/Actor_01"), Path("data/audio")
    raw.mkdir(parents=True)
    soundfile.write(raw / "03-01-01-01-01-01-01.wav", tone(), 48_000)
    resample.main()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert len(audio.read(output / "03-01-01-01-01-01-01.wav")) == 8000
    (raw / "03-01-01-01-01-02-01.wav").write_bytes(b"hello, this is text\n" * 50)
    with pytest.raises(SystemExit, match="resample: .*03-01-01-01-01-02-01.wav: not an audio file"):
        resample.main()
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_small_file_of_hours_takes_no_memory_where_there_is_a_limit(tmp_path):
    """At 1000 Hz each of FLAC's blocks of 4096 samples becomes 65 536."""
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(5 * 3600 * 1000, np.int16), 1000)
    assert path.stat().st_size < 2e6
    tracemalloc.start()
    try:
        with pytest.raises(errors.UserError, match=r"long.flac: longer than 60 s"):
            audio.decode(path, limit=60)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_a_file_as_long_as_the_limit_is_read(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(2.0, rate=16_000), 16_000)
    assert len(decoded(tmp_path / "tone.wav", limit=2)) == 32_000
    with pytest.raises(errors.UserError, match=r"longer than 1\.9 s"):
        audio.decode(tmp_path / "tone.wav", limit=1.9)


@pytest.fixture
def address(tmp_path):
    """An address of tone.wav at which nobody may ask."""
    soundfile.write(tmp_path / "tone.wav", tone(), 48_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/tone.wav"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody waits to be let in
            server.accept()


LISTS = {  # files that have FFmpeg open others
    "list.ffconcat": "ffconcat version 1.0\nfile tone.wav\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
    "list.wav": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=audio 9999 RTP/AVP 0\n",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_other_files_are_refused_and_nothing_is_fetched(tmp_path, address, name):
    (tmp_path / name).write_text(LISTS[name].format(address=address))
    with pytest.raises(errors.UserError, match=name):
        audio.decode(tmp_path / name)


@pytest.mark.timeout(60)
def test_a_name_is_a_path_and_no_address(tmp_path, address, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (address, "concat:tone.wav|tone.wav", "file:tone.wav", "pipe:0", "data:audio/wav,"):
        with pytest.raises(errors.UserError, match="No such file"):
            audio.decode(name)
    odd = Path("concat:a|b.wav")
    odd.write_bytes(Path("tone.wav").read_bytes())
    np.testing.assert_array_equal(decoded(odd), decoded(Path("tone.wav")))


@pytest.mark.parametrize("content", [b"", b"RIFF"])
def test_what_is_no_audio_file_is_refused(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(errors.UserError, match="a.wav: not an audio file"):
        audio.decode(tmp_path / "a.wav")
    with pytest.raises(errors.UserError, match="Is a directory"):
        audio.decode(tmp_path)


def test_a_wav_file_without_samples_is_refused(tmp_path):
    """Once such a header, damaged, was read as a clip of no length."""
    audio.write(tmp_path / "a.wav", np.zeros(0, np.int16))
    with pytest.raises(errors.UserError, match="holds no audio"):
        audio.read(tmp_path / "a.wav")
