"""The wheel cress-runtime: the engine from Python, without torch, and in the main package."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import CheckpointError, ConfigError
from cress_svcd.translation.translator import Translator
from tests.native.conftest import NATIVE

BEAM, LENGTH = 3, 12
SEARCH = {"beam": BEAM, "max_len_b": LENGTH}
# These random weights take torch's own scores up to 1.2e-3 away from those of double precision, see
# test_engine.py, and the command rounds to 1e-4.
TOLERANCE = 2e-3
OPTIONS = ("--beam", str(BEAM), "--max-len-b", str(LENGTH), "--segmenter", "energy")


@pytest.fixture(scope="module")
def wheel(compiler, tmp_path_factory):
    """Built from the checkout by setuptools, which the environment has."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", NATIVE / "python", "-w", folder)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``cress_runtime``, as an installation has it."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", folder, wheel)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import cress_runtime

        yield cress_runtime
        for name in [name for name in sys.modules if name.startswith("cress_runtime")]:
            del sys.modules[name]


def pip(*arguments, python=sys.executable, check=True):
    command = [python, "-m", "pip", "-q", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(command, check=check, capture_output=True, text=True)


@pytest.fixture(scope="module")
def model(exported):
    return exported("full", "--allow-full", "--dtype", "fp32")[1]


@pytest.fixture(scope="module")
def talk(prepared, release, tmp_path_factory):
    """A recording of several segments, in FLAC and two channels."""
    specs = read_manifest(prepared / "tst-COMMON.tsv")["audio"]
    pause = 1e-3 * np.random.default_rng(3).standard_normal(16000).astype(np.float32)
    waves = [read_audio(spec, root=release / "en-de" / "data") for spec in specs]
    wave = np.concatenate([part for wave in waves[:5] for part in (wave, pause)])
    path = tmp_path_factory.mktemp("talk") / "talk.flac"
    soundfile.write(path, np.stack([wave, -0.5 * wave], axis=1), 16000)
    return path


@pytest.fixture(scope="module")
def by_torch(model, talk, tmp_path_factory):
    """Segments as ``cress-svcd translate`` writes them."""
    return written(model, talk, tmp_path_factory.mktemp("torch"), "--batch-seconds", "0")


def written(model, talk, folder, *options) -> list[dict]:
    output = folder / "out.jsonl"
    command = ["translate", str(model), str(talk), "-o", str(output), *OPTIONS, *options]
    assert main([*command, "--output-format", "jsonl", "--word-times"]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


WITHOUT_TORCH = """
import json, sys
from cress_runtime import CressError, Translator
model, talk, damaged = sys.argv[1:]
translator = Translator(model, beam=3, max_len_b=12, segmenter="energy")
print(json.dumps([segment.text for segment in translator.segments(talk)]))
try:
    Translator(damaged)
except CressError as error:
    print(error)
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_an_environment_without_torch_translates(wheel, model, talk, by_torch, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    made = subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], capture_output=True)
    if made.returncode:
        pytest.skip("no environments here: apt-get install python3-venv")
    done = pip("install", "--timeout", "5", "--retries", "0", wheel, python=python, check=False)
    if done.returncode:
        pytest.skip(f"no package index, for numpy and soundfile: {done.stderr.strip()[-200:]}")
    assert pip("show", "torch", python=python, check=False).returncode
    damaged = tmp_path / "damaged.cress"
    damaged.write_bytes(model.read_bytes()[:-1000])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, "-c", WITHOUT_TORCH, model, talk, damaged]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    texts, error = done.stdout.splitlines()
    assert json.loads(texts) == [part["text"] for part in by_torch]
    assert error.startswith(str(damaged))


def test_the_wheel_is_of_any_python_and_this_machine(wheel, installed):
    assert re.fullmatch(r"cress_runtime-[\d.]+-py3-none-\w+\.whl", wheel.name)
    assert "none-any" not in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.split("-")[1] == installed.__version__
    assert "cress_runtime/libcress.so" in names and "cress_runtime/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_a_source_distribution_holds_what_it_is_built_from(tmp_path):
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", program, tmp_path]
    subprocess.run(command, cwd=NATIVE / "python", check=True, capture_output=True)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        licence = archive.extractfile(made.name.removesuffix(".tar.gz") + "/LICENSE")
        assert licence.read() == (NATIVE.parent / "LICENSE").read_bytes()
    for folder in ("native/src", "native/include", "cress_svcd/kernels/cpu/csrc"):
        sources = {path.name for path in (NATIVE.parent / folder).glob("*.[ch]")}
        assert sources and {f"engine/{folder}/{name}" for name in sources} <= names
    assert {"engine/native/Makefile", "setup.py"} <= names


def test_options_are_those_of_the_header(installed):
    from cress_runtime.library import Options

    header = (NATIVE / "include" / "cress.h").read_text()
    body = re.search(r"struct cress_options \{(.*?)\};", header, re.DOTALL)[1]
    fields = re.findall(r"^\s*(int|float|double|const char \*)\s*(\w+);", body, re.MULTILINE)
    kinds = {"int": "c_int", "float": "c_float", "double": "c_double", "const char *": "c_char_p"}
    assert [(name, kinds[kind]) for kind, name in fields] == [
        (name, kind.__name__) for name, kind in Options._fields_
    ]


def test_segments_have_words_times_scores_and_hypotheses(installed, model, talk, by_torch):
    translator = installed.Translator(
        model, **SEARCH, nbest=2, word_times=True, segmenter="energy", threads=2
    )
    found = translator.translate(talk)
    assert len(found.segments) == len(by_torch) > 2
    for part, line in zip(found.segments, by_torch):
        assert part.text == line["text"] and list(part.tokens) == line["tokens"]
        assert (round(part.start, 3), round(part.end, 3)) == (line["start"], line["end"])
        assert part.score == pytest.approx(line["score"], abs=TOLERANCE)
        assert len(part.hypotheses) == 2 and part.hypotheses[0].score >= part.hypotheses[1].score
        assert [word.text for word in part.words] == [word["word"] for word in line["words"]]
    assert found.text == " ".join(part.text for part in found.segments if part.text)
    assert " --> " in found.srt and found.vtt.startswith("WEBVTT")
    assert found.seconds == soundfile.info(talk).duration


def test_samples_open_files_and_threads_give_the_same(installed, model, talk):
    translator = installed.Translator(model, **SEARCH, segmenter="energy")
    samples, rate = soundfile.read(talk, dtype="int16")
    with open(talk, "rb") as file, ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(translator.translate, *audio)
            for audio in ((talk,), (str(talk),), (file,), (samples, rate))
        ]
        first, *others = [each.result() for each in waiting]
    assert first.text and all(other == first for other in others)
    assert first.srt is None


def test_the_example_of_its_readme_runs(installed, model, talk, tmp_path):
    readme = (NATIVE / "python" / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (tmp_path / "model.cress").symlink_to(model)
    (tmp_path / "talk.flac").symlink_to(talk)
    environment = os.environ | {"PYTHONPATH": os.path.dirname(installed.__path__[0])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    text, *segments = done.stdout.splitlines()
    assert text == " ".join(line.split(" ", 2)[2] for line in segments)
    assert " --> " in (tmp_path / "talk.srt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "audio, words",
    [
        ("missing.wav", "missing.wav: cannot be read"),
        (".", "it is a folder"),
        ([0.0] * 1600, "a list is no recording"),
        (b"talk.flac", "a bytes is no recording"),
        (np.zeros(0), "no samples"),
        (np.full(1600, np.nan), "NaN"),
        (np.zeros((2, 2, 2)), "expected one or two dimensions"),
        (np.zeros(5, int), "expected floats"),
        (np.zeros((2, 1600)), r"expected \(frames, channels\)"),
    ],
)
def test_what_is_no_recording_is_an_error(installed, model, audio, words):
    with pytest.raises(installed.AudioError, match=words):
        installed.Translator(model).translate(audio)


@pytest.mark.parametrize("rate", [0, -1, 16000.5, "16000", 2**32 + 16000, np.nan, np.inf])
def test_what_is_no_rate_is_an_error(installed, model, rate):
    with pytest.raises(installed.AudioError, match="rate"):
        installed.Translator(model).translate(np.ones(1600), rate)


@pytest.mark.parametrize("path", [5, None, "\ud800", "model.cress\0"])
def test_what_is_no_path_is_an_error(installed, path):
    with pytest.raises(installed.CressError, match="path"):
        installed.Translator(path)


def test_a_file_that_cannot_be_sought_in_is_read(installed, model, talk, tmp_path):
    samples, rate = soundfile.read(talk, frames=16000)
    soundfile.write(tmp_path / "phone.wav", samples[:, 0], rate, "GSM610")
    translator = installed.Translator(model, **SEARCH, segmentation=False)
    assert translator.translate(tmp_path / "phone.wav").seconds == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "kept, added, words",
    [
        (0, b"", "is no .cress file"),
        (-1000, b"", "damaged.cress: "),
        (-1, b"\x15", "damaged.cress: is damaged: it has the checksum"),
    ],
)
def test_a_damaged_model_is_an_error(installed, model, tmp_path, kept, added, words):
    (tmp_path / "damaged.cress").write_bytes(model.read_bytes()[:kept] + added)
    with pytest.raises(installed.CressError, match=words):
        installed.Translator(tmp_path / "damaged.cress")


def test_wrong_options_are_errors_with_the_engines_words(installed, model):
    for options, words in (
        ({"beam": 0}, "beam"),
        ({"beam": 2.5}, "beam: found 2.5, expected a whole number"),
        ({"isa": 3}, "isa: found 3, expected a name"),
        ({"segmenter": b"energy"}, "segmenter: found b'energy', expected a name"),
        ({"beam": 2**32 + 5}, "beam: found 4294967301"),
        ({"lenpen": "1"}, "lenpen: found '1', expected a number"),
        ({"nbest": 0}, "nbest: found 0, expected a number from 1 to 1000000"),
        ({"target_lang": "de"}, "target_lang de: the model has one language"),
        ({"segmenter": "none"}, "segmenter: expected auto"),
        ({"isa": "z80"}, "isa"),
        ({"isa": "\ud800"}, "isa: found .*, expected a name"),
    ):
        with pytest.raises(installed.CressError, match=f"^{words}"):
            installed.Translator(model, **options)


def test_the_main_package_translates_by_the_engine(installed, model, talk, by_torch, tmp_path):
    found = written(model, talk, tmp_path, "--engine", "native")
    assert len(found) == len(by_torch)
    for one, other in zip(found, by_torch):
        assert list(one) == list(other)
        assert one["score"] == pytest.approx(other["score"], abs=TOLERANCE)
        assert (one["text"], one["start"], one["end"]) == (
            other["text"],
            other["start"],
            other["end"],
        )
    translator = Translator.load(model, engine="native", **SEARCH, threads=1)
    assert translator.segmentation.second  # the model's own comes first
    assert translator.translate(talk).segments


def test_the_command_imports_no_torch(installed, model, talk):
    program = "import sys; from cress_svcd.cli.main import main; main(); print(*sys.modules)"
    arguments = [sys.executable, "-c", program, "translate", model, talk, "--engine", "native"]
    folders = os.pathsep.join(map(str, (installed.__path__[0] + "/..", NATIVE.parent, *sys.path)))
    done = subprocess.run(
        [*map(str, arguments), *OPTIONS],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": folders},
    )
    *texts, modules = done.stdout.splitlines()
    assert texts and not {"torch", "fairseq"} & set(modules.split())


def test_what_the_engine_has_not_is_an_error(installed, exported, model):
    packed = exported("full", "--allow-full", "--dtype", "fp32")[0]
    with pytest.raises(CheckpointError, match="cress-svcd export"):
        Translator.load(packed, engine="native")
    for options in ({"fp16": True}, {"device": "cuda:7"}, {"transcripts": True}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Translator.load(model, engine="native", threads=1, **options)
    with pytest.raises(ConfigError, match="expected torch or native"):
        Translator.load(model, engine="java")
    with pytest.raises(ConfigError, match="speech only"):
        Translator.load(model, engine="native", threads=1).require_text()
