"""Audio in and out: what decoding keeps, what it refuses, and how much memory it takes."""

import os
import re
import socket
import threading
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from ser import audio
from ser.corpora import ravdess
from ser.run import errors
from stages import resample


def tone(seconds: float = 0.5, rate: int = 48_000, level: float = 0.25) -> np.ndarray:
    wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return (level * 32767 * wave).astype(np.int16)


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    """Noise of 48 kHz: every second of it takes as many bytes."""
    wave = np.random.default_rng(0).normal(0, level, int(seconds * 48_000))
    return (32767 * wave).clip(-32768, 32767).astype(np.int16)


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


def encode(
    path: Path, codec: str, *tracks: np.ndarray, default: int = 0, rate: int = 48_000, picture=False
) -> bytes:
    """Write tracks of 48 kHz, shape (n,) or (n, channels); return what the file holds."""
    with av.open(str(path), "w", metadata_encoding="latin-1") as container:
        container.metadata["title"] = "Öl"
        streams = []
        if picture:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            black = np.zeros((64, 64, 3), np.uint8)
            streams.append((stream, av.VideoFrame.from_ndarray(black, format="rgb24")))
        for number, wave in enumerate(tracks):
            layout = "mono" if wave.ndim == 1 else "stereo"
            stream = container.add_stream(codec, rate=rate, layout=layout)
            stream.disposition = av.stream.Disposition(number == default)
            frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout=layout)
            frame.rate = 48_000
            streams.append((stream, frame))
        for stream, frame in streams:
            container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode(None))
    return path.read_bytes()


HALF = np.arange(24_000) / 24_000
UNHEARD = {
    "silence": (0 * HALF, "nothing but silence"),
    "dither": (np.where(np.arange(24_000) % 7, 0, 1 / 32768), "nothing but silence"),
    "offset": (0 * HALF + 0.3, "nothing but silence"),
    "1 ms": (HALF[:48], "too short: 1 ms; expected 100 ms at least"),
    "99 ms": (HALF[:4790], "too short: 99 ms; expected 100 ms at least"),
    "NaN": (np.where(HALF == 0.5, np.nan, HALF), "samples that are not numbers"),
    "infinity": (np.where(HALF == 0.5, -np.inf, HALF), "samples that are not numbers"),
    "huge": (np.where(HALF % 0.1 > 0.05, 3e38, HALF), "(not numbers|expected -1 to 1)"),
    "int16 range": (tone().astype(float), r"samples up to 819\d; expected -1 to 1"),
    "four channels": (np.stack([tone() / 100] * 4, 1), "expected -1 to 1"),
}


@pytest.mark.parametrize("what", UNHEARD)
def test_what_says_nothing_is_refused(tmp_path, what):
    wave, words = UNHEARD[what]
    soundfile.write(tmp_path / "odd.wav", wave, 48_000, subtype="FLOAT")
    with pytest.raises(errors.UserError, match=f"odd.wav: .*{words}"):
        audio.decode(tmp_path / "odd.wav")


def test_what_is_short_or_quiet_is_no_silence(tmp_path):
    soundfile.write(tmp_path / "short.wav", tone(0.1), 48_000)
    assert len(decoded(tmp_path / "short.wav")) == 1600
    soundfile.write(tmp_path / "quiet.wav", tone(level=0.001), 48_000)
    assert decoded(tmp_path / "quiet.wav").std() == pytest.approx(32.767 / np.sqrt(2), rel=0.05)


def test_floats_a_little_beyond_full_scale_are_clipped(tmp_path):
    wave = tone(level=0.5) / 32768
    wave[10_000:10_010] = 1.3
    assert wave.max() == 1.3
    soundfile.write(tmp_path / "few.wav", wave, 48_000, subtype="FLOAT")
    assert decoded(tmp_path / "few.wav").max() > 30_000
    soundfile.write(tmp_path / "many.wav", wave * 4, 48_000, subtype="FLOAT")
    samples, notes = audio.decode(tmp_path / "many.wav")
    assert np.ptp(samples.astype(int)) > 65_000
    assert notes == ["66.5% of the samples lie beyond full scale and are clipped"]


@pytest.mark.parametrize("signs", [(1, -1), (0.8, -1), (1, -1, 1, -1)])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_of_channels_that_cancel_each_other_out_one_is_used(tmp_path, signs, subtype):
    wave = tone() / 32768
    waves = np.stack([sign * wave for sign in signs], axis=1)
    soundfile.write(tmp_path / "phase.wav", waves, 48_000, subtype=subtype)
    soundfile.write(tmp_path / "one.wav", wave, 48_000, subtype=subtype)
    samples, notes = audio.decode(tmp_path / "phase.wav")
    one = decoded(tmp_path / "one.wav").astype(int)
    assert min(np.abs(samples - one).max(), np.abs(samples + one).max()) <= 1
    assert notes == [f"its {len(signs)} channels cancel each other out; the loudest one is used"]


@pytest.mark.parametrize(("name", "default"), [("film.mka", 0), ("film.mka", 1), ("film.mp4", 1)])
def test_of_several_tracks_the_default_one_is_taken(tmp_path, name, default):
    encode(tmp_path / name, "aac", tone(level=0.1), tone(level=0.2), default=default)
    samples, notes = audio.decode(tmp_path / name)
    level = (0.1, 0.2)[default] / np.sqrt(2)
    assert np.std(samples[2000:6000] / 32768) == pytest.approx(level, rel=0.1)
    assert notes == [f"has 2 audio tracks; number {default + 1} is used"]


def test_a_format_may_change_midway(tmp_path):
    """Its rate and its channels."""
    stereo = np.stack([tone(1.0)] * 2, axis=1)
    parts = [
        encode(tmp_path / "1.aac", "aac", tone(1.0)),
        encode(tmp_path / "2.aac", "aac", stereo),
        encode(tmp_path / "3.aac", "aac", tone(1.0), rate=24_000),
    ]
    (tmp_path / "all.aac").write_bytes(b"".join(parts))
    samples = decoded(tmp_path / "all.aac") / 32768
    assert len(samples) == pytest.approx(3 * 16_000, rel=0.05)
    for start in (2000, 18_000, 36_000):
        part = samples[start : start + 8000]
        assert np.std(part) == pytest.approx(0.25 / np.sqrt(2), rel=0.1)
        assert abs(np.abs(np.fft.rfft(part * np.hanning(8000))).argmax() * 2 - 440) <= 4


CODECS = {
    "wav": "pcm_s16le", "aiff": "pcm_s16be", "flac": "flac", "mp3": "mp3", "aac": "aac",
    "m4a": "aac", "mka": "aac", "opus": "libopus", "caf": "pcm_s16le", "avi": "pcm_s16le",
}  # fmt: skip


@pytest.mark.parametrize("ending", ["wav", "aiff", "flac", "mp3", "aac", "m4a"])
def test_a_tag_may_stand_before_any_header(tmp_path, ending):
    content = encode(tmp_path / f"plain.{ending}", CODECS[ending], tone())
    tag = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)
    (tmp_path / "tagged").write_bytes(2 * tag + content)
    np.testing.assert_array_equal(
        decoded(tmp_path / "tagged"), decoded(tmp_path / f"plain.{ending}")
    )


@pytest.mark.parametrize("kind", ["AVR", "IRCAM", "PAF", "PVF", "RF64", "SVX"])
def test_formats_of_recordings_are_no_playlists(tmp_path, kind):
    soundfile.write(tmp_path / "tone", tone(), 48_000, subtype="PCM_16", format=kind)
    assert np.std(decoded(tmp_path / "tone")[2000:6000]) == pytest.approx(5793, rel=0.01)


@pytest.mark.parametrize("ending", ["wav", "aiff", "flac", "mp3", "mka", "aac", "opus", "avi"])
def test_of_a_file_cut_in_half_it_is_said_how_much_was_read(tmp_path, ending):
    content = encode(tmp_path / f"whole.{ending}", CODECS[ending], noise(3.0))
    assert len(decoded(tmp_path / f"whole.{ending}")) == pytest.approx(48_000, rel=0.02)
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    samples, (note,) = audio.decode(tmp_path / "half")
    assert 0.9 * 16_000 < len(samples) < 1.6 * 16_000
    assert note.startswith("cut off or damaged: ")
    read = float(re.search(r"([\d.]+) s (of|could)", note)[1])
    assert read == pytest.approx(len(samples) / 16_000, abs=0.01)


@pytest.mark.parametrize("ending", ["mp3", "aac", "m4a", "mka", "flac", "opus"])
def test_what_cannot_be_decoded_is_left_out(tmp_path, ending):
    content = bytearray(encode(tmp_path / f"good.{ending}", CODECS[ending], noise(3.0)))
    middle = len(content) // 2
    content[middle : middle + 1000] = bytes(1000)
    (tmp_path / "bad").write_bytes(content)
    samples, notes = audio.decode(tmp_path / "bad")
    assert len(samples) > 16_000
    assert notes[-1].startswith("cut off or damaged: ")


@pytest.mark.parametrize("ending", ["mp3", "aac", "wav", "m4a", "caf"])
def test_trailing_bytes_do_no_harm(tmp_path, ending):
    content = encode(tmp_path / f"good.{ending}", CODECS[ending], tone())
    (tmp_path / "more").write_bytes(content + b"\x13\x37junk" * 100)
    samples, notes = audio.decode(tmp_path / "more")
    good = decoded(tmp_path / f"good.{ending}")
    np.testing.assert_allclose(samples[2000:6000], good[2000:6000], atol=1)
    assert len(samples) == pytest.approx(len(good), abs=200)
    assert all("packets could not be read" in note for note in notes)


@pytest.mark.parametrize("size", [0, 2**31 - 1, 2**32 - 1])
def test_a_wav_file_from_a_pipe_is_not_called_cut_off(tmp_path, size):
    """Its header was written before its length was known."""
    content = bytearray(encode(tmp_path / "good.wav", "pcm_s16le", tone()))
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = size.to_bytes(4, "little")
    (tmp_path / "piped.wav").write_bytes(content)
    assert len(decoded(tmp_path / "piped.wav")) == 8000


def test_a_pipe_is_read_into_memory_up_to_a_bound(tmp_path, monkeypatch):
    """In an MP4 the index stands behind the samples."""
    content = encode(tmp_path / "phone.m4a", "aac", tone())
    assert content.index(b"moov") > content.index(b"mdat")
    os.mkfifo(tmp_path / "pipe")

    def piped() -> np.ndarray:
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
        writer.start()
        try:
            return decoded(tmp_path / "pipe")
        finally:
            writer.join()

    np.testing.assert_array_equal(piped(), decoded(tmp_path / "phone.m4a"))
    monkeypatch.setattr(audio, "IN_MEMORY", len(content) - 1)
    with pytest.raises(errors.UserError, match="pipe: a pipe with more than 0 MiB"):
        piped()


@pytest.mark.parametrize(("name", "codec"), [("tone.mp3", "mp3"), ("video.mp4", "aac")])
def test_compressed_audio_is_read_too(tmp_path, name, codec):
    """Also a video's, and with names in another encoding than UTF-8."""
    encode(tmp_path / name, codec, np.stack([tone()] * 2, 1), picture=name == "video.mp4")
    samples = decoded(tmp_path / name) / 32768
    # 3 dB too loud would be 41 %
    assert np.std(samples[2000:6000]) == pytest.approx(0.25 / np.sqrt(2), rel=0.1)


def test_resample_says_what_of_a_clip_is_lost_and_refuses_one_of_which_nothing_is_left(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    clip = Path("data/raw/Actor_01/03-01-01-01-01-01-01.wav")
    clip.parent.mkdir(parents=True)
    content = encode(clip, "pcm_s16le", tone(1.0))
    clip.write_bytes(content[: len(content) // 2])
    ravdess.table(["Actor_01/03-01-01-01-01-01-01.wav"]).to_csv("data/clips.csv", index=False)
    resample.main()
    words = "cut off or damaged: 0.50 s of 1.00 s could be read"
    assert f"resample: {clip}: {words}\n" in capsys.readouterr().err
    assert len(audio.read(f"data/audio/{clip.name}")) == pytest.approx(8000, abs=20)
    clip.write_bytes(content[:200])
    words = f"resample: data/clips.csv, line 2: {clip}: too short: 1 ms"
    with pytest.raises(SystemExit, match=words):
        resample.main()


def test_resample_names_a_file_that_is_not_audio_and_keeps_the_older_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, output = Path("data/raw/Actor_01"), Path("data/audio")
    raw.mkdir(parents=True)
    files = [f"Actor_01/03-01-01-01-01-0{number}-01.wav" for number in (1, 2)]
    soundfile.write(raw / "03-01-01-01-01-01-01.wav", tone(), 48_000)
    ravdess.table(files[:1]).to_csv("data/clips.csv", index=False)
    resample.main()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert len(audio.read(output / "03-01-01-01-01-01-01.wav")) == 8000
    (raw / "03-01-01-01-01-02-01.wav").write_bytes(b"hello, this is text\n" * 50)
    ravdess.table(files).to_csv("data/clips.csv", index=False)
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


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_recording_in_pieces_is_the_whole_in_little_memory(tmp_path, subtype):
    waves = np.column_stack([noise(40.0), noise(40.0, level=0.05)]) / 32768
    soundfile.write(tmp_path / "stereo.wav", waves, 48_000, subtype=subtype)
    notes = []
    pieces = list(audio.pieces(tmp_path / "stereo.wav", notes, size=16_000))
    assert {len(piece) for piece in pieces[:-1]} == {16_000} and len(pieces[-1]) >= 16_000
    whole = decoded(tmp_path / "stereo.wav")
    np.testing.assert_array_equal(audio.centred(np.concatenate(pieces)), whole)
    tracemalloc.start()
    try:
        for _ in audio.pieces(tmp_path / "stereo.wav", notes, size=16_000):
            pass
        assert tracemalloc.get_traced_memory()[1] < 3e6  # the whole takes 5 MB as float64
    finally:
        tracemalloc.stop()
    assert notes == []


def test_what_is_noted_of_pieces_is_said_once_and_at_the_end(tmp_path):
    wave = noise(4.0) / 32768
    waves = np.column_stack([wave, -wave])
    waves[48_000:] *= 8
    soundfile.write(tmp_path / "odd.wav", waves, 48_000, subtype="FLOAT")
    content = (tmp_path / "odd.wav").read_bytes()
    (tmp_path / "odd.wav").write_bytes(content[: len(content) * 3 // 4])
    notes = []
    found = audio.pieces(tmp_path / "odd.wav", notes, size=8000)
    assert len(next(found)) == 8000 and notes == []
    list(found)
    assert len(notes) == 3
    assert "channels cancel each other out" in notes[0]
    assert re.match(r"\d+\.\d% of the samples lie beyond full scale", notes[1])
    assert re.match(r"cut off or damaged: 3\.00 s of 4\.00 s", notes[2])


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
