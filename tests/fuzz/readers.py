"""All readers: which sound file each is given in a damaged form, and how it is called."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cress_svcd.cli.main import main
from cress_svcd.errors import CressError
from tests.fuzz.world import FORMATS


@dataclass
class Case:
    """A run of a reader.

    file: the damaged file, in a copy of its folder.
    folder: that copy.
    out: an empty folder to write to.
    world: the folder of all sound files.
    """

    file: Path
    folder: Path
    out: Path
    world: Path


@dataclass
class Reader:
    """A reader of files.

    name: of the reader, ``what/how``.
    kind: of damage, see :data:`tests.fuzz.mutations.KINDS`.
    file: the sound file, below the world.
    call: reads the file of a case; gives a command's status, or anything.
    words: of the command that ``call`` runs, for a process of its own; empty for a function.
    """

    name: str
    kind: str
    file: str
    call: Callable[[Case], object]
    words: Callable[[Case], list[str]] | None = None

    @property
    def folder(self) -> str:
        """The one below the world that is copied with the file."""
        return self.file.split("/")[0]


@dataclass
class Table:
    """The readers by name."""

    readers: dict[str, Reader] = field(default_factory=dict)

    def function(self, name: str, kind: str, *files: str) -> Callable:
        """Decorator: the function reads each of the ``files``."""

        def add(call: Callable[[Case], object]) -> Callable[[Case], object]:
            for file in files:
                self._add(Reader(self._name(name, file, files), kind, file, call))
            return call

        return add

    def command(self, text: str, kind: str, *files: str) -> None:
        """A command; in it FILE, FOLDER, OUT and WORLD stand for those of the case."""

        def words(case: Case) -> list[str]:
            places = {
                "FILE": case.file,
                "FOLDER": case.folder,
                "OUT": case.out,
                "WORLD": case.world,
            }
            filled = []
            for word in text.split():
                for place, path in places.items():
                    word = word.replace(place, str(path))
                filled.append(word)
            return filled

        for file in files:
            name = self._name(text.split()[0], file, files)
            while name in self.readers:
                name += "+"
            self._add(Reader(name, kind, file, lambda case: main(words(case)), words))

    def _add(self, reader: Reader) -> None:
        assert reader.name not in self.readers, reader.name
        self.readers[reader.name] = reader

    @staticmethod
    def _name(name: str, file: str, files: tuple[str, ...]) -> str:
        return f"{name}/{Path(file).name}"


TABLE = Table()
function, command = TABLE.function, TABLE.command
READERS = TABLE.readers

AUDIO = [f"audio/sound.{name}" for name in FORMATS]


def each(*calls: Callable[[], object]) -> None:
    """Make all calls, whichever are refused; then raise the last refusal."""
    refusal = None
    for call in calls:
        try:
            call()
        except CressError as error:
            refusal = error
    if refusal:
        raise refusal


@function("audio", "audio", *AUDIO, "audio/sound.oga", "audio/joined.wav")
@function("audio", "npy", "audio/sound.npy", "audio/short.npy")
def read_sound(case: Case) -> None:
    from cress_svcd.data.audio import AudioSpec, audio_info, read_audio, read_blocks

    path = str(case.file)
    each(
        lambda: audio_info(path),
        lambda: [None for _ in read_blocks(path, 0.1)],
        lambda: read_audio(AudioSpec(path)),
        lambda: read_audio(AudioSpec(path, 800, 1600)),
    )


@function("manifest", "text", "prepared/dev.tsv")
def read_table(case: Case) -> None:
    from cress_svcd.data.corpus.manifest import read_manifest
    from cress_svcd.evaluation.recordings import read_recordings

    each(lambda: read_manifest(case.file), lambda: read_recordings(case.file))


command("shard-audio FOLDER -o OUT/shards --workers 1", "text", "prepared/dev.tsv")
command("shard-audio FOLDER -o OUT/shards --workers 1", "yaml", "prepared/config.yaml")
command("shuffle-audio FILE -o OUT/shuffled.tsv", "text", "prepared/dev.tsv")


@functools.cache
def task_config():
    """Of a training task, to be completed by its data."""
    from tests.helpers.training_options import parse

    return parse(Path("nowhere")).task


def load_split(case: Case, **changes) -> None:
    """Read a split as training does, all of it."""
    from fairseq import tasks
    from omegaconf import OmegaConf

    cfg = copy.deepcopy(task_config())
    OmegaConf.update(cfg, "data", str(case.folder))
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    task = tasks.setup_task(cfg)
    split = "train" if "ext_mt_training" in changes else "dev"
    task.load_dataset(split)
    dataset = task.dataset(split)
    if hasattr(dataset, "ordered_indices"):
        dataset.ordered_indices()
    dataset.collater([dataset[index] for index in range(len(dataset))])


@function("dataset", "text", "prepared/dev.tsv", "prepared/spm_unigram45.txt")
@function("dataset", "yaml", "prepared/config.yaml")
@function("dataset", "bytes", "prepared/spm_unigram45.model")
def read_dataset(case: Case) -> None:
    load_split(case)


BINARY = [f"prepared/binary/train.en-de.{end}" for end in ("de.bin", "de.idx", "en.idx")]


@function("dataset", "bytes", *BINARY)
@function("dataset", "text", "prepared/binary/dict.de.txt")
def read_binary_text(case: Case) -> None:
    load_split(case, text_data=str(case.folder / "binary"), ext_mt_training=True, st_training=False)


@function("features", "npy", "features/dev.npy", "features/dev.ends.npy")
@function("features", "json", "features/dev.json")
def read_features(case: Case) -> None:
    from cress_svcd.data.corpus.manifest import read_manifest
    from cress_svcd.data.feature_cache import FeatureCache

    cache = FeatureCache(case.folder, "dev", read_manifest(case.world / "prepared" / "dev.tsv"))
    assert all(cache[index].shape[1] == 4 for index in range(len(cache)))
    assert cache.variants
    _ = cache.cuts


RELEASE = "release/en-de/data/dev/txt"
PREPARE = "prepare-mustc FOLDER -o OUT/prepared --tgt-lang de --vocab-size 45 --workers 1"
command(PREPARE, "yaml", f"{RELEASE}/dev.yaml")
command(PREPARE, "text", f"{RELEASE}/dev.en", f"{RELEASE}/dev.de")
command(f"{PREPARE} --text-data", "audio", "release/en-de/data/dev/wav/ted_0.wav")


@function("segments", "yaml", f"{RELEASE}/dev.yaml")
@function("segments", "text", f"{RELEASE}/dev.de")
def read_release(case: Case) -> None:
    from cress_svcd.data.corpus.mustc import Release, read_split
    from cress_svcd.data.corpus.segment_rows import read_rows

    if case.file.suffix == ".yaml":
        read_rows(case.file)
    else:
        read_split(Release(case.folder / "en-de" / "data", "de"), "dev")


TEXT = "prepare-text {} -o OUT/text --workers 1 "
EXTRA = TEXT.format("WORLD/prepared") + "--split train FOLDER/extra.en FOLDER/extra.de"
command(EXTRA, "text", "texts/extra.en")
command(f"{EXTRA} --clean", "text", "texts/extra.de")
command(
    TEXT.format("FOLDER") + "--with-speech-text --without WORLD/prepared/dev.tsv",
    "text",
    "prepared/train.tsv",
)
PRUNE = (
    "prune-vocabulary {} --spm-model {} --dictionary {} --text WORLD/texts/sentences.txt "
    "WORLD/texts/extra.de -o OUT/pruned"
)
VOCABULARY = "WORLD/prepared/spm_unigram45.model", "WORLD/prepared/spm_unigram45.txt"
MODEL = "WORLD/models/checkpoint1.pt"
command(PRUNE.format("FILE", *VOCABULARY), "checkpoint", "models/checkpoint1.pt")
command(PRUNE.format(MODEL, "FILE", VOCABULARY[1]), "bytes", "prepared/spm_unigram45.model")
command(PRUNE.format(MODEL, VOCABULARY[0], "FILE"), "text", "prepared/spm_unigram45.txt")


@function("vocabulary", "bytes", "prepared/spm_unigram45.model")
@function("vocabulary", "text", "prepared/spm_unigram45.txt")
def read_vocabulary(case: Case) -> None:
    from cress_svcd.data.config import load_dictionary
    from cress_svcd.data.corpus.vocabulary import (
        check_dictionary,
        copy_dictionary,
        load_sentencepiece,
        write_dictionary,
    )

    model = case.folder / "spm_unigram45.model"
    dictionary = case.folder / "spm_unigram45.txt"
    each(
        lambda: load_sentencepiece(model).encode("The red house.", out_type=str),
        lambda: write_dictionary(model, case.out / "made" / "written.txt"),
        lambda: copy_dictionary(dictionary, case.out / "made" / "copied.txt"),
        lambda: check_dictionary(model, dictionary, may_have_mark=True),
        lambda: load_dictionary(dictionary),
    )


CHECKPOINTS = ["models/checkpoint1.pt", "models/quantised.pt", "models/packed.pt"]
command("pack FILE -o OUT/packed.pt --data WORLD/prepared", "checkpoint", "models/quantised.pt")
command("pack FILE -o OUT/packed.pt --allow-full", "checkpoint", CHECKPOINTS[0])
PACKED = ["models/packed.pt", "models/low_bits.pt"]
command("unpack FILE -o OUT/unpacked.pt", "checkpoint", *PACKED)
command("report FILE --json OUT/report.json", "checkpoint", CHECKPOINTS[1])
command("report FILE --kernels --json OUT/report.json", "checkpoint", CHECKPOINTS[2])
command("average FILE WORLD/models/checkpoint2.pt -o OUT/mean.pt", "checkpoint", CHECKPOINTS[0])
command("average FOLDER --last 2 -o OUT/mean.pt", "checkpoint", CHECKPOINTS[0])
command("average FOLDER --best 2 -o OUT/mean.pt", "checkpoint", CHECKPOINTS[0])
TRANSLATE = (
    "translate {} {} --data WORLD/prepared --device cpu --beam 1 --max-len-b 5 -o OUT/said.{} "
)
TRANSLATE += "--output-format {} --no-segmentation"
command(
    TRANSLATE.format("FILE", "WORLD/audio/sound.wav", "jsonl", "jsonl"),
    "checkpoint",
    *CHECKPOINTS,
    PACKED[1],
)
command(
    f"translate {MODEL} WORLD/audio/sound.wav --data FOLDER --device cpu --beam 1 --max-len-b 5 "
    "-o OUT/said.txt --no-segmentation",
    "yaml",
    "prepared/config.yaml",
)
QUICK = TRANSLATE.format("WORLD/models/packed.pt", "{}", "{}", "{}")
for _file in ("sound.wav", "sound.ogg", "sound.mp3", "sound.flac"):
    command(QUICK.format("FILE", "srt", "srt"), "audio", f"audio/{_file}")
command(QUICK.format("--from-list FILE", "txt", "text"), "text", "texts/list.txt")
command(
    "extract-features WORLD/prepared --hubert-model-path FILE -o OUT/features --splits dev "
    "--workers 0",
    "checkpoint",
    "models/hubert.pt",
)
command(
    "train-segmenter FILE WORLD/prepared --data WORLD/prepared -o OUT/segmenter.pt --updates 1 "
    "--device cpu",
    "checkpoint",
    CHECKPOINTS[0],
)


@function("list", "text", "texts/list.txt", "texts/sentences.txt")
def read_list(case: Case) -> None:
    from cress_svcd.translation.inputs import expand_list, read_lines

    each(lambda: list(expand_list(str(case.file))), lambda: list(read_lines(str(case.file))))


@function("hubert", "checkpoint", "models/hubert.pt")
def read_speech_encoder(case: Case) -> None:
    from cress_svcd.models.hubert_checkpoint import read_hubert

    read_hubert(case.file)


@function("hubert folder", "checkpoint", "huggingface/pytorch_model.bin")
@function("hubert configuration", "yaml", "huggingface/config.json")
def read_folder_of_speech_encoder(case: Case) -> None:
    from cress_svcd.models.hubert_checkpoint import read_hubert

    read_hubert(case.file.parent)


@function("deltalm", "checkpoint", "models/deltalm.pt")
def read_text_model(case: Case) -> None:
    from cress_svcd.models.deltalm_checkpoint import read_deltalm

    read_deltalm(case.file)


RECIPE = "recipe FILE --set out=OUT/run"
command(f"{RECIPE} --list", "yaml", "texts/recipe.yaml")
command(f"{RECIPE} --dry-run", "yaml", "texts/recipe.yaml")


@functools.cache
def toy_model():
    from tests.helpers.toy_translator import Translator

    return Translator()


@function("policy", "yaml", "texts/policy.yaml")
def read_policy(case: Case) -> None:
    from cress_svcd.quantization.convert import apply_policy
    from cress_svcd.quantization.policy import Policy

    policy = Policy.load(case.file)
    policy.resolve(toy_model())
    apply_policy(copy.deepcopy(toy_model()), policy)
    policy.save(case.out / "policy.yaml")


@function("pretraining", "yaml", "texts/pretraining.yaml")
def read_pretraining(case: Case) -> None:
    from cress_svcd.pretraining.config import load_pretraining_config

    load_pretraining_config(case.file)


SCORE = "score {} --manifest WORLD/prepared/dev.tsv --json OUT/scores.json"
command(SCORE.format("FILE"), "text", "texts/generated.out")
command(
    "score WORLD/texts/generated.out --manifest FILE --json OUT/scores.json",
    "text",
    "prepared/dev.tsv",
)
command(SCORE.format("--recordings FILE"), "json lines", "texts/translated.jsonl")
command(SCORE.format("--recordings FILE"), "text", "texts/ted_0.srt", "texts/ted_0.vtt")
EXACT = SCORE.format("--recordings WORLD/texts/translated.jsonl --exact FILE")
command(EXACT, "json", "texts/scores.json")
command(EXACT, "text", "texts/generated.out")
command(
    "compare FILE WORLD/texts/other.out --resamples 5 --json OUT/compared.json",
    "text",
    "texts/generated.out",
)
CHART = "chart {} --csv OUT/chart.csv --json OUT/chart.json --png OUT/chart.png"
command(CHART.format("FILE"), "json", "texts/scores.json", "texts/compared.json")
command(
    CHART.format("scores=WORLD/texts/scores.json --sizes scores=FILE"), "json", "texts/report.json"
)
command("curves FILE --csv OUT/c.csv --json OUT/c.json --png OUT/c.png", "text", "texts/train.log")


@function("vocabulary of a checkpoint", "yaml", "models/config.yaml")
def read_neighbour(case: Case) -> None:
    from cress_svcd.data.corpus.prepared import read_config

    read_config(case.folder)


def warm() -> None:
    """Load in this process what every run needs: they are copies of it."""
    import matplotlib.pyplot  # noqa: F401
    import mweralign  # noqa: F401
    import pandas  # noqa: F401
    import suber  # noqa: F401
    from fairseq import checkpoint_utils  # noqa: F401

    from cress_svcd.translation.translator import Translator  # noqa: F401

    task_config()
    toy_model()
