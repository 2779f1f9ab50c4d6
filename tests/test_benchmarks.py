"""The benchmarks of what goes clip by clip run, in small, on clips that lie in folders."""

import re

import pytest

pytestmark = pytest.mark.slow


def test_benchmarks_find_the_clips_of_a_corpus(clone):
    clone.env["PATH"] = f"{clone.path}:{clone.env['PATH']}"
    program = clone.path / "ffmpeg"
    program.write_text('#!/bin/sh\ncp "$7" "${14}"\n')  # beside which ours may be slow
    program.chmod(0o755)
    said = clone.run("python", "-m", "benchmarks.resample", "--clips", "6", "--repeats", "1").stdout
    assert re.search(r"^6 clips(.*\n)+resample: +[\d.]+ s, .*\n[\d.]+ times as fast", said), said
    small = ("--clips", "3", "--times", "1", "2", "--stages", "resample")
    rows = clone.run("python", "-m", "benchmarks.scale", *small).stdout
    assert re.findall(r"^\| resample \| [\d.]+ \| (\d+) \| ", rows, re.M) == ["3", "6"], rows
