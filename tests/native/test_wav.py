"""WAV files as recorders, editors and accidents leave them: the engine reads what Python reads."""

import functools
import resource
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from cress_svcd.data.audio import read_blocks


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    stated = len(content) if size is None else size
    return name + struct.pack("<I", stated) + content + b"\0" * (len(content) & 1)


def form(bits=16, frame=2, kind=1) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", kind, 1, 16000, 16000 * frame, frame, bits))


def riff(*chunks: bytes, name=b"RIFF") -> bytes:
    return name + b"\xff\xff\xff\xff" + b"WAVE" + b"".join(chunks)


LIST = chunk(b"LIST", b"INFOICMT\x04\0\0\0talk")


def in_bytes(samples: np.ndarray, width: int) -> bytes:
    """Of 16 bits, left-justified in more."""
    wide = np.zeros((len(samples), width), np.uint8)
    wide[:, width - 2 :] = samples.astype("<i2").view(np.uint8).reshape(-1, 2)
    return wide.tobytes()


def large(samples):
    sound = in_bytes(samples, 2)
    sizes = chunk(b"ds64", struct.pack("<QQQI", 0, len(sound), 0, 0))
    return riff(sizes, form(), chunk(b"data", sound, 0xFFFFFFFF), LIST, name=b"RF64")


MADE = {
    "of more than 4 GB": large,
    "unfinished": lambda s: riff(form(), chunk(b"data", in_bytes(s, 2), 0)),
    "of a length that is old": lambda s: riff(form(), chunk(b"data", in_bytes(s, 2), 20000)),
    "of chunks behind": lambda s: riff(form(), chunk(b"data", in_bytes(s, 2)), LIST, LIST),
    "24 bits in 4 bytes": lambda s: riff(form(24, 4), chunk(b"data", in_bytes(s, 4))),
    "12 bits in 2 bytes": lambda s: riff(form(12, 2), chunk(b"data", in_bytes(s, 2))),
    "20 bits in 3 bytes": lambda s: riff(form(20, 3), chunk(b"data", in_bytes(s, 3))),
}


@pytest.fixture(scope="module")
def read(engine, exampled, tmp_path_factory):
    """What the model hears: the first convolutions' output tells every sample."""

    def read(path) -> np.ndarray:
        folder = tmp_path_factory.mktemp("trace")
        command = [engine, "translate", "--no-segmentation", "--beam", 1, "--max-len-b", 1]
        command += ["--trace", folder, exampled, path]
        subprocess.run([*map(str, command)], check=True, capture_output=True)
        content = (folder / "hubert.convolutions.bin").read_bytes()
        rows, columns = struct.unpack("<qq", content[:16])
        return np.frombuffer(content, np.float32, offset=16).reshape(rows, columns)

    return read


@pytest.fixture(scope="module")
def samples(voice):
    return soundfile.read(voice, dtype="int16")[0][:32000]


@pytest.mark.parametrize("kind", MADE)
def test_it_is_read_whole_as_in_python(kind, read, samples, tmp_path):
    plain, made = tmp_path / "plain.wav", tmp_path / "made.wav"
    soundfile.write(plain, samples, 16000)
    made.write_bytes(MADE[kind](samples))
    assert np.array_equal(np.concatenate([*read_blocks(made)]), samples / np.float32(32768))
    assert np.array_equal(read(made), read(plain))


def test_a_sample_far_beyond_all_others_is_silence(read, samples, tmp_path):
    wave = samples / np.float32(32768)
    for name, value in (("silent", 0), ("loud", 1e6), ("none", np.nan)):
        wave[1000] = value
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000, "FLOAT")
    heard = [read(tmp_path / f"{name}.wav") for name in ("silent", "loud", "none")]
    assert np.array_equal(heard[0], heard[1]) and np.array_equal(heard[0], heard[2])
    assert np.concatenate([*read_blocks(tmp_path / "loud.wav")])[1000] == 0


def test_what_has_no_end_and_is_no_wav_is_refused(engine, exampled):
    command = [str(engine), "translate", str(exampled), "/dev/zero"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "is no WAV file" in done.stderr


def test_rates_below_those_of_speech_are_refused_as_in_python(engine, exampled, samples, tmp_path):
    soundfile.write(tmp_path / "slow.wav", samples, 999)
    command = [str(engine), "translate", str(exampled), str(tmp_path / "slow.wav")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "from 1,000 to" in done.stderr


def test_an_absurd_rate_takes_no_absurd_memory(engine, exampled, samples, tmp_path):
    soundfile.write(tmp_path / "fast.wav", samples, 9_999_999)
    command = [str(engine), "translate", "--no-segmentation", "--beam", "1", str(exampled)]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (200 << 20, 200 << 20))
    done = subprocess.run(
        [*command, str(tmp_path / "fast.wav")], capture_output=True, timeout=60, preexec_fn=limit
    )
    assert done.returncode == 0, done.stderr
