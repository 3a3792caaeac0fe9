"""Whole recordings: cut, brought to the model's rate and written as in Python."""

import json
import struct
import subprocess

import numpy as np
import pytest
import soundfile
import soxr

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.translation.result import Translation, Word
from cress_svcd.translation.subtitle_files import render
from cress_svcd.translation.subtitles import make_cues
from tests.native.conftest import NATIVE

BEAM, LENGTH = 3, 12
OPTIONS = ("--beam", BEAM, "--max-len-b", LENGTH)


@pytest.fixture(scope="module")
def talk(prepared, release):
    """Speech and pauses, and what cannot be cut at a pause, of a minute and more."""
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"]
    segments = [read_audio(spec, root=release / "en-de" / "data") for spec in specs]
    random = np.random.default_rng(3)
    parts = []
    for number in range(30):
        wave = segments[number % len(segments)]
        pause = 0 if 8 <= number < 22 else int(16000 * random.uniform(0.1, 1.5))
        parts += [wave, np.zeros(pause, np.float32)]
    wave = np.concatenate(parts)
    return wave + 1e-3 * random.standard_normal(len(wave)).astype(np.float32)


def write(path, wave, rate, channels):
    if rate != 16000:
        wave = soxr.resample(wave, 16000, rate)
    gains = [1, 0.5, -0.5][:channels]  # the last one would cancel the one before it
    soundfile.write(path, wave[:, None] * gains, rate, subtype="PCM_24" if channels > 1 else None)


def run(engine, *arguments, **options) -> subprocess.CompletedProcess:
    command = [str(argument) for argument in (engine, "translate", *arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


def by_python(model, *arguments, capsys) -> str:
    capsys.readouterr()
    assert main(["translate", *map(str, (model, *arguments, "--batch-seconds", 0))]) == 0
    return capsys.readouterr().out


@pytest.fixture
def both(exported, engine, talk, tmp_path, capsys):
    """What Python and the engine find in a recording of some rate and number of channels."""

    def translate(rate, channels, segmenter):
        packed, cress = exported("full", "--allow-full", "--dtype", "fp32")
        path = tmp_path / "talk.wav"
        write(path, talk, rate, channels)
        arguments = (path, "--output-format", "jsonl", "--segmenter", segmenter, *OPTIONS)
        expected = by_python(packed, *arguments, capsys=capsys).splitlines()
        done = run(engine, cress, *arguments)
        assert done.returncode == 0, done.stderr
        found = done.stdout.decode().splitlines()
        assert len(found) == len(expected) > 3
        return zip(map(json.loads, expected), map(json.loads, found), strict=True)

    return translate


@pytest.mark.parametrize("segmenter", ["energy", "auto"])
def test_a_recording_is_translated_as_in_python(both, segmenter):
    again = 0
    for one, other in both(16000, 1, segmenter):
        assert list(one) == list(other)
        assert other.pop("score") == pytest.approx(one.pop("score"), abs=1e-3)
        assert one == other
        again += "decoded_again" in one
    assert again  # random words are repeated soon


@pytest.mark.parametrize("rate, channels", [(44100, 2), (8000, 1), (22050, 3), (44101, 1)])
def test_of_any_rate_it_is_cut_as_in_python(both, rate, channels):
    """The words of random weights change with the last bits of a resampler."""
    for one, other in both(rate, channels, "energy"):
        assert (one["start"], one["end"]) == (other["start"], other["end"])


def test_channels_of_noise_are_left_out_as_in_python(exported, engine, talk, tmp_path, capsys):
    packed, cress = exported("full", "--allow-full", "--dtype", "fp32")
    noise = 0.2 * np.random.default_rng(4).standard_normal(len(talk))
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.stack([noise, talk], axis=1), 16000, subtype="FLOAT")
    arguments = (path, "--segmenter", "energy", *OPTIONS)
    expected = by_python(packed, *arguments, capsys=capsys)
    assert run(engine, cress, *arguments).stdout.decode() == expected


def test_text_is_a_line_for_each_segment(exported, engine, talk, tmp_path, capsys):
    packed, cress = exported("full", "--allow-full", "--dtype", "fp32")
    write(tmp_path / "talk.wav", talk, 16000, 1)
    arguments = (tmp_path / "talk.wav", "--segmenter", "energy", *OPTIONS)
    expected = by_python(packed, *arguments, capsys=capsys)
    assert run(engine, cress, *arguments).stdout.decode() == expected


def test_words_and_subtitles_are_timed_as_in_python(exported, engine, talk, tmp_path, capsys):
    """But where flat attention, of random weights, is tipped by a float's last place."""
    packed, cress = exported("full", "--allow-full", "--dtype", "fp32")
    path = tmp_path / "talk.wav"
    write(path, talk, 16000, 1)
    arguments = (path, "--segmenter", "energy", *OPTIONS)
    lines = (*arguments, "--output-format", "jsonl", "--word-times")
    expected = by_python(packed, *lines, capsys=capsys).splitlines()
    found = run(engine, cress, *lines).stdout.decode().splitlines()
    same = sum(
        json.loads(one)["words"] == json.loads(other)["words"]
        for one, other in zip(expected, found)
    )
    assert len(expected) - 2 <= same
    parts = []
    for one in map(json.loads, found):
        words = tuple(Word(word["word"], word["start"], word["end"]) for word in one["words"])
        parts.append(Translation(one["text"], 0.0, (), one["start"], one["end"], words=words))
    assert sum(len(part.words) for part in parts) > 20
    for form in ("srt", "vtt"):
        subtitles = run(engine, cress, *arguments, "--output-format", form).stdout.decode()
        assert subtitles == render(make_cues(parts, end=len(talk) / 16000), form)


def test_standard_input_is_a_wav_file_or_raw_samples(exported, engine, talk, tmp_path):
    _, cress = exported("everything")
    wave = (talk[: 16000 * 5] * 32767).astype("<i2")
    soundfile.write(tmp_path / "talk.wav", wave, 16000)
    named = run(engine, cress, tmp_path / "talk.wav", *OPTIONS)
    piped = run(engine, cress, *OPTIONS, input=(tmp_path / "talk.wav").read_bytes())
    raw = run(engine, cress, "-", "--raw", 16000, *OPTIONS, input=wave.tobytes())
    assert named.returncode == 0 and named.stdout
    assert named.stdout == piped.stdout == raw.stdout


def test_a_part_of_a_file_is_named_by_samples(exported, engine, talk, tmp_path):
    """As manifests name it; a name that only looks like that is a file's."""
    _, cress = exported("everything")
    write(tmp_path / "part.wav", talk[16000:64000], 16000, 1)
    (tmp_path / "10:20").write_bytes((tmp_path / "part.wav").read_bytes())
    write(tmp_path / "talk.wav", talk, 16000, 1)
    names = ("part.wav", "10:20", "talk.wav:16000:48000")
    options = ("--no-segmentation", *OPTIONS)
    first, *others = [run(engine, cress, tmp_path / name, *options).stdout for name in names]
    assert first and others == [first, first]


def test_of_silence_it_says_so(exported, engine, tmp_path):
    _, cress = exported("everything")
    soundfile.write(tmp_path / "silence.wav", np.zeros(30000), 16000)
    done = run(engine, cress, tmp_path / "silence.wav")
    assert done.returncode == 1 and not done.stdout
    assert b"nothing is heard" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("empty.wav", b"", "no WAV file"),
        ("text.wav", b"RIFFxxxxWAVE and then nothing", "no samples"),
        ("missing.wav", None, "cannot be read"),
    ],
)
def test_what_is_no_recording_is_an_error_and_the_rest_goes_on(
    exported, engine, talk, tmp_path, name, content, words
):
    _, cress = exported("everything")
    write(tmp_path / "talk.wav", talk[:48000], 16000, 1)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run(engine, cress, tmp_path / name, tmp_path / "talk.wav", *OPTIONS)
    assert done.returncode == 1 and done.stdout
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("cress: error: ") and name in line and words in line


@pytest.mark.parametrize(
    "announced, said", [(500_000, True), (300_850, False), (0x7FFFF000, False)]
)
def test_of_a_file_that_was_cut_it_says_so(engine, exampled, voice, tmp_path, announced, said):
    """Not of one whose writer, to a pipe, did not know its length."""
    content = bytearray(voice.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", announced)
    (tmp_path / "talk.wav").write_bytes(content)
    found, whole = (run(engine, exampled, path) for path in (tmp_path / "talk.wav", voice))
    assert found.returncode == 0 and found.stdout == whole.stdout
    remark = f"cress: {tmp_path}/talk.wav: has 9.4 s of the 15.6 s that its header announces\n"
    assert found.stderr.decode() == (remark if said else "")


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(exported, engine, talk, tmp_path, threads):
    _, cress = exported("everything")
    write(tmp_path / "talk.wav", talk[: 16000 * 20], 16000, 1)
    arguments = (cress, tmp_path / "talk.wav", "--output-format", "jsonl", *OPTIONS)
    one, several = run(engine, *arguments), run(engine, *arguments, "--threads", threads)
    assert one.stdout and one.stdout == several.stdout


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 44101])
def test_resampling_keeps_what_both_rates_hold(engine, tmp_path, rate):
    """As soxr does: a chirp up to 0.9 of the lower rate's half is the same within 0.1 %."""
    times = np.arange(rate) / rate
    top = 0.9 * min(rate, 16000) / 2
    wave = np.sin(2 * np.pi * top / 2 * times**2).astype(np.float32)
    program = tmp_path / "resample.c"
    program.write_text(RESAMPLE)
    source = NATIVE / "src"
    objects = set(engine.parent.glob("*.o")) - {engine.parent / f"{name}.o" for name in NOT_OF_ALL}
    kernels = NATIVE.parent / "cress_svcd" / "kernels" / "cpu" / "csrc"
    folders = [f"-I{folder}" for folder in (source, NATIVE / "include", kernels)]
    command = ["cc", "-std=gnu11", *folders, program, *objects, "-lm", "-pthread"]
    subprocess.run([*command, "-o", tmp_path / "resample"], check=True)
    done = subprocess.run(
        [tmp_path / "resample", str(rate)], input=wave.tobytes(), capture_output=True, check=True
    )
    found = np.frombuffer(done.stdout, np.float32)
    expected = soxr.resample(wave, rate, 16000)
    assert len(found) == 16000
    inside = slice(500, -500)
    assert np.abs(found[inside] - expected[:16000][inside]).max() < 1e-3


NOT_OF_ALL = ("main", "output", "libcress")  # of the command, and the library as one object
RESAMPLE = """
#include <stdio.h>
#include <stdlib.h>
#include "resample.h"
int main(int count, char **arguments)
{
    static float samples[1 << 17];
    struct arena arena = {0};
    int64_t rate = atoi(arguments[count - 1]);
    int64_t read = (int64_t)fread(samples, sizeof *samples, 1 << 17, stdin);
    float *found = resample(&arena, samples, read, rate);
    fwrite(found, sizeof *found, (size_t)resampled_length(read, rate), stdout);
    return 0;
}
"""
