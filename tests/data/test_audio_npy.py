"""Waveforms of numpy.save: whatever stands in the header, and where the file ends."""

import struct

import numpy as np
import pytest

from cress_svcd.data.audio import AudioInfo, audio_info, mono_waveform, read_audio, read_blocks
from cress_svcd.errors import AudioError
from tests.helpers.odd_audio import RATE, sweep

X, Y = sweep(5.4)[:, 0], sweep(5.4, seed=3)[::-1, 0]
STEPS = np.arange(1000, dtype="<i2")


def npy(literal: str, version: tuple[int, int] = (1, 0), behind: bytes = STEPS.tobytes()) -> bytes:
    """A file with any header."""
    text = literal.encode() + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + behind


def header(descr="<i2", by_columns=False, shape=(1000,)) -> str:
    return repr({"descr": descr, "fortran_order": by_columns, "shape": shape})


READABLE = {
    # what: (file, channels, seconds that are said to be announced)
    "version 2": (npy(header(), (2, 0)), 1, None),
    "version 3": (npy(header(), (3, 0)), 1, None),
    "by columns": (npy(header(by_columns=True)), 1, None),
    "by columns, stereo": (npy(header(by_columns=True, shape=(500, 2))), 2, None),
    "big-endian": (npy(header(">i2"), behind=STEPS.byteswap().tobytes()), 1, None),
    "truth as a number": (npy(header(shape=(True, 1000))), 1, None),
    "length -1": (npy(header(shape=(-1,))), 1, None),
    "length -1000": (npy(header(shape=(-1000,))), 1, None),
    "length -2^70": (npy(header(shape=(-(1 << 70),))), 1, None),
    "length -5, stereo": (npy(header(shape=(-5, 2))), 2, None),
    "length -5, by columns": (npy(header(by_columns=True, shape=(2, -5))), 2, None),
    "length 2^40": (npy(header(shape=(1 << 40,))), 1, (1 << 40) / RATE),
    "length 2^63": (npy(header(shape=(1 << 63,))), 1, (1 << 63) / RATE),
    "length 2^70": (npy(header(shape=(1 << 70,))), 1, (1 << 70) / RATE),
    "length 2^62, stereo": (npy(header(shape=(1 << 62, 2))), 2, (1 << 62) / RATE),
}
WRONG = {
    "no samples": (npy(header(shape=(0,))), "holds no samples"),
    "no channels": (npy(header(shape=(9, 0))), "holds no samples"),
    "a number": (npy(header(shape=())), r"holds int16 of shape \(\); expected a waveform"),
    "three dimensions": (npy(header(shape=(9, 9, 9))), r"int16 of shape \(9, 9, 9\); expected a"),
    "objects": (npy(header("|O")), r"holds object of shape \(1000,\); expected a waveform"),
    "text": (npy(header("<U4")), "holds <U4 of shape"),
    "nothing": (npy(header("|V0")), r"holds \|V0 of shape"),
    "records": (npy(header([("a", "<i2"), ("b", "<f4")])), "holds .*<f4.* of shape"),
    "arrays": (npy(header(("<i2", (2,)))), "holds .*<i2.* of shape"),
    "dates": (npy(header("<M8[s]")), "holds datetime64"),
    "all negative": (
        npy(header(shape=(-5, -2))),
        r"truncated: of shape \(-5, -2\) only 2000 bytes",
    ),
    "wide": (npy(header(shape=(2, 1 << 40))), r"truncated: of shape \(2, \d+\) only 2000 bytes"),
    "wider": (npy(header(shape=(2, 1 << 63))), r"truncated: of shape \(2, \d+\) only 2000 bytes"),
    "version 9": (npy(header(), (9, 0)), r"no .npy file \(version 9.0 of the format is not known"),
    "half a shape": (npy(header(shape=(10.5,))), "no .npy file .*shape is not valid"),
    "shape in words": (npy(header(shape="x")), "no .npy file .*shape is not valid"),
    "order in words": (
        npy(header(by_columns="no")),
        "no .npy file .*fortran_order is not valid|bool",
    ),
    "other keys": (npy("{'x': 1}"), "no .npy file .*correct keys"),
    "open brackets": (npy("{" * 50), "no .npy file"),
    "nested too deeply": (npy("-" * 9000 + "1"), r"no .npy file \(its header is damaged\)"),
    "very long": (npy("(" * 70_000, (2, 0)), r"no .npy file \(Header info length"),
    "longer than the file": (b"\x93NUMPY\2\0\xf0\xff\xff\xff{'descr'", "no .npy file .EOF"),
    "its name alone": (b"\x93NUMPY", "no .npy file .EOF"),
    "no letters": (b"\x93NUMPY\3\0\x0a\0\0\0" + b"\xff" * 10, "no .npy file"),
    "impossible type": (npy(header("<i1099511627776")), "no .npy file .descr is not a valid"),
}


@pytest.mark.parametrize("name", READABLE)
def test_headers_that_can_be_read(tmp_path, name, caplog):
    content, channels, announced = READABLE[name]
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    assert audio_info(path) == AudioInfo(RATE, 1000 // channels, channels)
    whole = read_audio(str(path))
    assert len(whole) == 1000 // channels
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.01))), whole)
    np.testing.assert_array_equal(read_audio(f"{path}:100:300"), whole[100:400])
    if announced is None:
        assert not caplog.records
    else:
        (line,) = caplog.messages
        assert line.startswith(f"{path}: has 0.0") and f"of the {announced:.3f} s that" in line


@pytest.mark.parametrize("name", WRONG)
def test_headers_that_cannot(tmp_path, name):
    content, said = WRONG[name]
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    for read in (
        audio_info,
        lambda path: read_audio(f"{path}:0:10"),
        lambda path: list(read_blocks(path)),
    ):
        with pytest.raises(AudioError, match=f"a.npy: .*({said})") as error:
            read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_cut_npy(tmp_path, caplog):
    wave = np.stack([X, Y], axis=1)
    for name, stored in (("rows", wave), ("columns", np.asfortranarray(wave.T))):
        path = tmp_path / f"{name}.npy"
        np.save(path, stored)
        path.write_bytes(path.read_bytes()[: 128 + 8 * RATE + 3])
        assert audio_info(path).frames == RATE
        np.testing.assert_allclose(read_audio(str(path)), wave[:RATE].mean(axis=1), atol=1e-6)
        assert f"{name}.npy: has 1.0 s of the 5.4 s that its header announces" in caplog.text
    # Of one channel after the other, the second is cut.
    np.save(path, wave.T.copy())
    path.write_bytes(path.read_bytes()[: 128 + 8 * RATE])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(str(path))


def test_npy_with_more_behind_it(tmp_path, caplog):
    path = tmp_path / "a.npy"
    stereo = np.stack([X, Y], axis=1)
    for name, wave in {"mono": X, "stereo": stereo, "columns": np.asfortranarray(stereo.T)}.items():
        whole = mono_waveform(wave)
        with path.open("wb") as file:
            np.save(file, wave)
            np.save(file, wave)
        np.testing.assert_array_equal(read_audio(str(path)), np.concatenate([whole, whole]))
        message = "a.npy: has 10.8 s, which are read, though its header announces 5.4 s"
        assert message in caplog.text
        caplog.clear()
        with path.open("wb") as file:
            np.save(file, wave)
            file.write(wave.tobytes("A")[: 8 * RATE])
        assert audio_info(path).frames == len(X) + (2 * RATE if name == "mono" else RATE)
        assert "which are read, though its header announces 5.4 s" in caplog.text
        caplog.clear()


def test_an_archive_is_no_waveform(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, X)
    with pytest.raises(AudioError, match="a.npy: .*archive"):
        audio_info(tmp_path / "a.npy")
