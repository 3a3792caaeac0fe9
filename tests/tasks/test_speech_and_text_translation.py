"""The task: which data it reads, what a batch holds, and what it refuses."""

import argparse
import math
import re
import shutil

import pandas
import pytest
import torch
import yaml
from fairseq.data import Dictionary
from fairseq.logging import metrics

from cress_svcd.cli import extract_features, shard_audio
from cress_svcd.data.config import dictionary_digest
from cress_svcd.data.corpus.manifest import read_manifest, write_manifest
from cress_svcd.errors import CheckpointError, ConfigError
from tests.helpers.hubert_files import make_hubert
from tests.helpers.training_options import make_model, make_task, parse

MIXED = ["--st-training", "--mt-finetune", "--ext-mt-training"]


@pytest.fixture
def data(prepared, tmp_path):
    """A copy of the prepared folder, to be broken."""
    return shutil.copytree(prepared, tmp_path / "data")


def mixed(data, *flags):
    return make_task(data, *MIXED, "--text-data", data / "binary", *flags)


def make_criterion(data, *flags):
    return make_task(data, *flags).build_criterion(parse(data, *flags).criterion)


def change_config(data, **changes):
    config = yaml.safe_load((data / "config.yaml").read_text())
    config.update(changes)
    for key in [key for key, value in config.items() if value is None]:
        del config[key]
    (data / "config.yaml").write_text(yaml.safe_dump(config))


def change_manifest(data, split, change):
    path = data / f"{split}.tsv"
    rows = read_manifest(path).to_dict("records")
    write_manifest(path, [change(number, row) for number, row in enumerate(rows)])


def batches(task, split="train", max_tokens=100_000, max_sentences=None, **options):
    """The batches of an epoch."""
    task.load_dataset(split)
    iterator = task.get_batch_iterator(
        task.dataset(split), max_tokens=max_tokens, max_sentences=max_sentences, **options
    )
    return list(iterator.next_epoch_itr(shuffle=split == "train"))


def mode_of(batch) -> str:
    """As the batch names it where modes are mixed; else of the input's type."""
    if "mode" in batch:
        return batch["mode"]
    return "st" if batch["net_input"]["src_tokens"].is_floating_point() else "mt"


def padded_size(batch) -> int:
    """What a batch costs: rows times the longest source or target."""
    return max(batch["net_input"]["src_tokens"].numel(), batch["target"].numel())


class TestModes:
    @pytest.mark.parametrize(
        "flags, modes, named",
        [
            ([], ["st"], False),
            (["--st-training"], ["st"], False),
            (["--mt-finetune"], ["mt"], False),
            (["--st-training", "--mt-finetune"], ["st"], False),
            (["--ext-mt-training"], ["ext_mt"], False),
            (["--mt-finetune", "--ext-mt-training"], ["mt", "ext_mt"], True),
            (["--st-training", "--ext-mt-training"], ["st", "ext_mt"], True),
            (MIXED, ["st", "ext_mt"], True),
        ],
    )
    def test_of_the_flags(self, prepared, flags, modes, named):
        task = make_task(prepared, *flags, "--text-data", prepared / "binary")
        assert task.training_modes == modes
        assert task.evaluates_text is ("st" not in modes)
        found = batches(task)
        assert {batch.get("mode") for batch in found} == (set(modes) if named else {None})
        assert {batch["net_input"]["src_tokens"].is_floating_point() for batch in found} == {
            mode == "st" for mode in modes
        }

    def test_each_batch_holds_the_input_of_its_mode(self, prepared):
        for batch in batches(mixed(prepared)):
            source = batch["net_input"]["src_tokens"]
            assert source.is_floating_point() is (batch["mode"] == "st")
            assert ("source_text" in batch) is (batch["mode"] == "st")
            assert set(batch["net_input"]) == {"src_tokens", "src_lengths", "prev_output_tokens"}

    def test_a_mixed_epoch_holds_each_sentence_once_a_mode(self, prepared):
        rows = {"st": 0, "ext_mt": 0}
        for batch in batches(mixed(prepared)):
            rows[batch["mode"]] += len(batch["id"])
        assert rows == {"st": 40, "ext_mt": 40}

    def test_of_evaluation(self, prepared):
        speech = batches(mixed(prepared), "dev")
        text = batches(mixed(prepared, "--text-input"), "dev")
        assert all(batch["net_input"]["src_tokens"].is_floating_point() for batch in speech)
        assert not any(batch["net_input"]["src_tokens"].is_floating_point() for batch in text)


class TestBatchSizes:
    @pytest.mark.parametrize("flags", [[], ["--st-training", "--ext-mt-training"]])
    def test_within_both_limits(self, prepared, flags):
        task = make_task(
            prepared, *flags, "--text-data", prepared / "binary", "--max-tokens-text", "120"
        )
        limits = {"st": 120_000, "ext_mt": 120}
        sizes = {"st": [], "ext_mt": []}
        for batch in batches(task, max_tokens=120_000):
            sizes[mode_of(batch)].append(padded_size(batch))
            assert padded_size(batch) <= limits[mode_of(batch)]
        for mode in task.training_modes:
            assert max(sizes[mode]) > limits[mode] / 2  # and the limits are made use of

    def test_sentences_of_speech_and_of_text(self, prepared):
        task = mixed(prepared, "--batch-size-text", "7")
        rows = {"st": set(), "ext_mt": set()}
        for batch in batches(task, max_tokens=None, max_sentences=3):
            rows[batch["mode"]].add(len(batch["id"]))
        assert rows == {"st": {3, 1}, "ext_mt": {7, 5}}

    def test_text_alone_takes_max_tokens(self, prepared):
        task = make_task(prepared, "--mt-finetune")
        sizes = [padded_size(batch) for batch in batches(task, max_tokens=150)]
        assert len(sizes) > 4 and max(sizes) <= 150

    def test_samples_are_not_taken_for_tokens(self, prepared):
        task = make_task(prepared, "--mt-finetune")
        task.load_dataset("train")
        iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=3_000_000)
        assert len(iterator) == 1
        assert task._text_batch_size(3_000_000, None) == (8192, None)

    def test_too_long_segments_are_left_out_of_training_and_counted(self, prepared, caplog):
        frames = read_manifest(prepared / "train.tsv")["n_frames"]
        limit = int(frames.median())
        too_long = int((frames > limit).sum())
        for flags in ([], ["--ext-mt-training", "--text-data", prepared / "binary"]):
            caplog.clear()
            task = make_task(prepared, "--st-training", "--max-audio-positions", limit, *flags)
            found = [
                batch
                for batch in batches(task, ignore_invalid_inputs=True)
                if mode_of(batch) == "st"
            ]
            assert sum(len(batch["id"]) for batch in found) == 40 - too_long
            assert re.search(f"{too_long} (of 40 )?samples have invalid sizes", caplog.text)

    @pytest.mark.parametrize("flags", [[], ["--text-input"]])
    def test_evaluation_leaves_nothing_out(self, prepared, flags):
        shortest = int(read_manifest(prepared / "dev.tsv")["n_frames"].min())
        task = make_task(prepared, "--max-audio-positions", shortest // 2, *flags)
        found = batches(task, "dev", max_tokens=30)
        assert sorted(int(i) for batch in found for i in batch["id"]) == list(range(12))


@pytest.mark.parametrize("flags", [["--st-training"], MIXED], ids=["st", "mixed"])
def test_the_lengths_of_batches_are_those_of_segments_within_the_limits(data, flags):
    """Else one long segment, which is left out, would take a length and make small batches."""
    lengths = sorted(read_manifest(data / "train.tsv")["n_frames"])

    def long(number, row):
        return row | {"n_frames": 1_000_000, "id": "long"} if number == 0 else row

    change_manifest(data, "train", long)
    options = [*flags, "--text-data", data / "binary", "--batch-shapes", "2", "--max-tokens"]
    for size in (2_000_000, 900_000):  # beyond --max-audio-positions, and beyond a batch
        longest = ["--max-audio-positions", "2000000"] if size < 1_000_000 else []
        task = make_task(data, *options, size, *longest)
        found = batches(task, max_tokens=size, ignore_invalid_inputs=True)
        speech = [batch for batch in found if mode_of(batch) == "st"]
        assert sum(len(batch["id"]) for batch in speech) == len(lengths) - 1
        padded = {batch["net_input"]["src_tokens"].size(1) for batch in speech}
        dataset = task.dataset("train")
        shapes = getattr(dataset, "datasets", [dataset])[0].shapes
        assert set(shapes.lengths) >= padded and shapes.lengths[-1] < lengths[-1] + 1600


TEXT_MODES = {
    "external": ["--ext-mt-training"],
    "transcripts": ["--mt-finetune"],
    "mixed": MIXED,
}


@pytest.mark.parametrize("flags", TEXT_MODES.values(), ids=TEXT_MODES)
def test_batches_of_text_have_few_shapes_in_training_alone(prepared, flags):
    options = [*flags, "--text-data", prepared / "binary", "--max-tokens-text", "200"]
    shaped, plain = (
        make_task(prepared, *options, *more) for more in ([], ["--batch-shapes", "2"])[::-1]
    )
    found, others = (
        [batch for batch in batches(task, max_tokens=200_000) if mode_of(batch) != "st"]
        for task in (shaped, plain)
    )
    dataset = shaped.dataset("train")
    lengths = set(getattr(dataset, "datasets", [dataset])[-1].shapes.lengths.tolist())
    assert len(lengths) == 2
    assert {batch["target"].size(1) for batch in found} <= lengths
    assert not {batch["target"].size(1) for batch in others} <= lengths
    for text in (found, others):
        assert len({int(i) for batch in text for i in batch["id"]}) == 40
    wanted = batches(plain, "dev")
    for batch, same in zip(batches(shaped, "dev"), wanted, strict=True):
        assert batch["target"].shape == same["target"].shape


class TestOrder:
    def test_two_shards_take_the_same_mode_at_each_step(self, prepared):
        flags = ("--max-tokens-text", "100")
        shards = [
            batches(mixed(prepared, *flags), num_shards=2, shard_id=shard) for shard in (0, 1)
        ]
        modes = [[batch["mode"] for batch in shard if batch] for shard in shards]
        assert modes[0] == modes[1] and set(modes[0]) == {"st", "ext_mt"}
        ids = [{(b["mode"], int(i)) for b in shard for i in b["id"]} for shard in shards]
        assert not ids[0] & ids[1]

    @pytest.mark.parametrize("flags", [["--st-training"], MIXED], ids=["st", "mixed"])
    def test_grouped_shuffling_gives_two_shards_similar_lengths(self, prepared, flags):
        options = [*flags, "--text-data", prepared / "binary", "--batch-size-text", "2"]

        def shards(grouped):
            return [
                batches(
                    make_task(prepared, *options),
                    max_sentences=2,
                    num_shards=2,
                    shard_id=shard,
                    grouped_shuffling=grouped,
                )
                for shard in (0, 1)
            ]

        def difference(shards):
            longest = [
                [
                    batch["net_input"]["src_tokens"].size(1)
                    for batch in shard
                    if mode_of(batch) == "st"
                ]
                for shard in shards
            ]
            return sum(abs(one - other) for one, other in zip(*longest, strict=True))

        grouped, random = shards(True), shards(False)
        modes = [[mode_of(batch) for batch in shard] for shard in grouped]
        assert modes[0] == modes[1]
        ids = [(mode_of(b), int(i)) for shard in grouped for b in shard for i in b["id"]]
        assert len(set(ids)) == len(ids) == 40 * len(set(modes[0]))
        lengths = [batch["net_input"]["src_tokens"].size(1) for batch in grouped[0]]
        assert lengths != sorted(lengths)
        assert difference(grouped) < difference(random) / 3

    def test_modes_are_mixed_within_an_epoch(self, prepared):
        modes = [batch["mode"] for batch in batches(mixed(prepared, "--max-tokens-text", "100"))]
        changes = sum(one != other for one, other in zip(modes, modes[1:]))
        assert changes > 3

    def test_a_share_of_the_external_text_is_drawn_again_each_epoch(self, prepared):
        task = mixed(prepared, "--ext-mt-ratio", "0.5", "--max-tokens-text", "100")
        task.load_dataset("train")
        drawn = []
        for epoch in (1, 2, 3, 1):
            iterator = task.get_batch_iterator(
                task.dataset("train"), max_tokens=100_000, epoch=epoch
            )
            found = [batch for batch in iterator.next_epoch_itr() if batch["mode"] == "ext_mt"]
            drawn.append(frozenset(int(i) for batch in found for i in batch["id"]))
        assert all(10 <= len(ids) <= 30 for ids in drawn)
        assert len(set(drawn)) == 3 and drawn[0] == drawn[3]

    @pytest.mark.parametrize(
        "flags",
        [["--st-training"], ["--mt-finetune"], ["--ext-mt-training"], MIXED],
        ids=["st", "mt", "ext_mt", "mixed"],
    )
    def test_of_a_later_epoch_is_that_of_a_resumed_training(self, prepared, flags):
        """However training came to its third epoch, it finds the same batches there."""
        options = [*flags, "--text-data", prepared / "binary", "--max-tokens-text", "100"]

        def last_of(epochs) -> list:
            task = make_task(prepared, *options)
            task.load_dataset("train")
            for epoch in epochs:
                iterator = task.get_batch_iterator(
                    task.dataset("train"), max_tokens=70_000, max_sentences=4, epoch=epoch
                )
                ids = [batch["id"].tolist() for batch in iterator.next_epoch_itr()]
                assert iterator.epoch == epoch
            return ids

        assert last_of([1, 2, 3]) == last_of([3]) != last_of([1, 2])

    @pytest.mark.parametrize("modes", [["--st-training"], MIXED], ids=["st", "mixed"])
    def test_varied_and_joined_cuts_are_those_of_a_resumed_training(self, prepared, modes):
        """Whatever reads them, from wherever it goes on: the same batches of the same samples."""
        flags = ["--vary-cuts", "0.7", "--join-segments", "0.2", "--text-data", prepared / "binary"]

        def heard(epochs, workers=0, stopped=None) -> list:
            task = make_task(prepared, *modes, *flags)
            task.load_dataset("train")
            for epoch in epochs:
                iterator = task.get_batch_iterator(
                    task.dataset("train"), 90_000, 5, epoch=epoch, num_workers=workers
                )
                if stopped is not None:
                    iterator.load_state_dict(stopped)
                found = [
                    (batch["id"].tolist(), batch["net_input"]["src_tokens"])
                    for batch in iterator.next_epoch_itr()
                ]
            return found

        def same(one, other) -> bool:
            return [ids for ids, _ in one] == [ids for ids, _ in other] and all(
                torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(one, other, strict=True)
            )

        whole = heard([1, 2, 3])
        assert same(whole, heard([3])) and same(whole, heard([1, 2, 3], workers=2))
        assert not same(whole, heard([1, 2]))
        within = {"epoch": 3, "iterations_in_epoch": 4, "shuffle": True, "len": len(whole)}
        for workers in (0, 2):
            assert same(whole[4:], heard([3], workers, {"version": 2, **within}))
        joined = [ids for ids, wave in whole if wave.is_floating_point() and max(ids) >= 40]
        assert joined


class TestInput:
    def test_several_splits_at_once(self, prepared):
        task = make_task(prepared)
        task.load_dataset("dev,tst-COMMON")
        assert len(task.dataset("dev,tst-COMMON")) == 24

    def test_a_manifest_without_optional_columns(self, data):
        frame = pandas.read_csv(data / "train.tsv", sep="\t")
        frame[["id", "audio", "n_frames", "tgt_text"]].to_csv(
            data / "train.tsv", sep="\t", index=False
        )
        (batch, *_) = batches(make_task(data))
        assert "source_text" not in batch and batch["target"].dim() == 2

    def test_audio_root_relative_to_the_config(self, data, release):
        (data / "recordings").symlink_to(release / "en-de" / "data")
        change_config(data, audio_root="recordings")
        assert batches(make_task(data), "dev")

    def test_files_next_to_the_config_come_before_those_of_the_working_folder(
        self, prepared, tmp_path, monkeypatch
    ):
        (tmp_path / "spm_unigram50.model").write_text("another")
        monkeypatch.chdir(tmp_path)
        assert batches(make_task(prepared), "dev")

    def test_languages_come_from_the_config(self, data):
        task = make_task(data)
        assert (task.cfg.source_lang, task.cfg.target_lang) == ("en", "de")

    def test_a_tokenizer_before_the_subwords(self, data):
        change_config(data, pre_tokenizer={"tokenizer": "space"})
        assert batches(make_task(data), "dev")


def here(command, *arguments) -> None:
    """Run a command of ours without its log handlers, which would stay."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(item) for item in arguments]))


class TestCuts:
    FLAGS = ("--st-training", "--vary-cuts", "1", "--join-segments", "0.2")

    def dataset(self, data, *flags):
        task = make_task(data, *(flags or self.FLAGS))
        task.load_dataset("train")
        return task.dataset("train")

    def test_no_segment_grows_beyond_what_a_batch_holds(self, prepared):
        longest = read_manifest(prepared / "train.tsv")["n_frames"].max()
        grown = self.dataset(prepared, *self.FLAGS).lengths
        assert grown.max() > longest + 100
        for limit in ("--max-tokens", "--max-audio-positions"):
            limited = self.dataset(prepared, *self.FLAGS, limit, longest + 100).lengths[:40]
            assert longest < limited.max() <= longest + 100

    @pytest.mark.parametrize("marked", [True, False])
    def test_of_shards_neither_neighbours_nor_joined_segments(
        self, prepared, tmp_path, caplog, marked
    ):
        """Also where the folder is of some time ago and does not say what it is."""
        out = tmp_path / "shards"
        here(shard_audio, prepared, "-o", out)
        config = yaml.safe_load((out / "config.yaml").read_text())
        assert config.pop("sharded") is True
        if not marked:
            (out / "config.yaml").write_text(yaml.safe_dump(config))
        plain, shards = self.dataset(prepared), self.dataset(out)
        assert len(plain) == 48 and len(shards) == 40
        assert plain.surroundings.neighbours.any() and plain.surroundings.gaps.any()
        assert not shards.surroundings.neighbours.any() and not shards.surroundings.gaps.any()
        lines = [line for line in caplog.messages if "packed by shard-audio" in line]
        assert len(lines) == 1 and lines[0].startswith(f"{out}: ") and "no segments" in lines[0]
        caplog.clear()
        assert self.dataset(out, "--st-training").plan is None
        assert not [line for line in caplog.messages if "packed by shard-audio" in line]


def test_training_alone_sounds_otherwise(prepared):
    task = make_task(prepared, "--st-training", "--audio-transforms", "speed=1,room", "--seed", "5")
    for split in ("train", "dev"):
        task.load_dataset(split)
    train, dev = task.dataset("train"), task.dataset("dev")
    assert train.transforms.shares == {"speed": 1.0, "room": 0.3} and train.transforms.seed == 5
    assert (train.lengths != train.n_frames).mean() > 0.9
    assert dev.transforms is None and (dev.lengths == dev.n_frames).all()
    assert len(train[0]["audio"]) == train.lengths[0]
    with pytest.raises(ConfigError, match="--audio-transforms: 'echo'; expected"):
        make_task(prepared, "--st-training", "--audio-transforms", "echo").load_dataset("train")


@pytest.fixture(scope="module")
def cached(prepared, hubert, tmp_path_factory):
    """Features of varied cuts and joined segments."""
    out = tmp_path_factory.mktemp("features")
    flags = ["--workers", "0", "--vary-cuts", "1", "--join-segments", "0.2", "--variants", "2"]
    here(extract_features, prepared, "--hubert-model-path", hubert, "-o", out, *flags)
    return out


class TestCachedCuts:
    def load(self, prepared, hubert, cached, *flags, split="train"):
        options = ["--st-training", "--feature-cache", cached, "--freeze-hubert", *flags]
        cfg = parse(prepared, "--hubert-model-path", hubert, *options)
        task = make_task(prepared, *options)
        make_model(cfg, task)
        task.load_dataset(split)
        return task.dataset(split)

    def test_they_are_of_audio_as_it_is(self, prepared, hubert, cached):
        flags = ("--vary-cuts", "1", "--join-segments", "0.2", "--audio-transforms", "noise")
        with pytest.raises(ConfigError, match="--audio-transforms noise changes audio.*leave out"):
            self.load(prepared, hubert, cached, *flags, "--max-tokens", "480000")

    def test_training_takes_them(self, prepared, hubert, cached):
        cuts = ("--vary-cuts", "1", "--join-segments", "0.2", "--max-tokens", "480000")
        dataset = self.load(prepared, hubert, cached, *cuts)
        assert dataset.features.variants == 2 and len(dataset) == 48
        assert self.load(prepared, hubert, cached, *cuts, split="dev").plan is None
        # Cuts of what is left out may differ: here of all of them.
        assert len(self.load(prepared, hubert, cached, *cuts[:4], "--max-tokens", "500")) == 48

    @pytest.mark.parametrize(
        "flags, message",
        [
            (["--vary-cuts", "1"], "--join-segments 0.2, and 0 is wanted"),
            (["--vary-cuts", "0.5", "--join-segments", "0.2"], "this training wants 0.5"),
            (
                ["--vary-cuts", "1", "--join-segments", "0.2", "--max-audio-positions", "40000"],
                "varied up to 480000 samples.* --max-audio-positions 40000'",
            ),
            (
                ["--vary-cuts", "1", "--join-segments", "0.2", "--max-tokens", "41000"],
                "takes segments up to 41000: .* --max-audio-positions 41000'",
            ),
        ],
    )
    def test_what_training_wants_otherwise_is_refused(
        self, prepared, hubert, cached, flags, message
    ):
        with pytest.raises(ConfigError, match=message):
            self.load(prepared, hubert, cached, *flags)


class TestErrors:
    def test_a_missing_manifest_lists_those_there(self, prepared):
        with pytest.raises(ConfigError, match="tst-HE.tsv.*dev, train, tst-COMMON"):
            make_task(prepared).load_dataset("tst-HE")

    def test_a_missing_config(self, prepared):
        with pytest.raises(ConfigError, match="other.yaml: .*No such file.*prepare-mustc"):
            make_task(prepared, "--config-yaml", "other.yaml")

    @pytest.mark.parametrize("key", ["vocab_filename", "sentencepiece_model"])
    def test_a_file_that_the_config_names_is_missing(self, data, key):
        changes = {"vocab_filename": "nowhere.txt"}
        if key == "sentencepiece_model":
            changes = {"bpe_tokenizer": {"bpe": "sentencepiece", key: "nowhere.txt"}}
        change_config(data, **changes)
        with pytest.raises(ConfigError, match=rf"config.yaml: key .*{key}.*nowhere.txt"):
            make_task(data)

    @pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "", "just text\n"])
    def test_a_config_that_is_none(self, data, content):
        (data / "config.yaml").write_text(content)
        with pytest.raises(ConfigError, match="config.yaml"):
            make_task(data)

    @pytest.mark.parametrize("key", ["vocab_filename", "use_audio_input"])
    def test_a_key_is_missing(self, data, key):
        change_config(data, **{key: None})
        with pytest.raises(ConfigError, match=f"config.yaml: .*{key}"):
            make_task(data)

    def test_norwegian_is_a_language_and_no_truth_value(self, data):
        path = data / "config.yaml"
        lines = [line for line in path.read_text().splitlines() if "tgt_lang" not in line]
        path.write_text("\n".join([*lines, "tgt_lang: no", ""]))
        assert make_task(data).cfg.target_lang == "no"

    def test_a_dictionary_that_is_none(self, data):
        (data / "spm_unigram50.txt").write_text("this is no dictionary at all\n")
        with pytest.raises(ConfigError, match="spm_unigram50.txt"):
            make_task(data)

    def test_a_sentencepiece_model_that_is_none(self, data):
        (data / "spm_unigram50.model").write_bytes(b"this is no model at all")
        with pytest.raises(ConfigError, match="spm_unigram50.model"):
            make_task(data)

    def test_a_dictionary_of_another_sentencepiece_model(self, data):
        (data / "spm_unigram50.txt").write_text("".join(f"word{i} 1\n" for i in range(46)))
        with pytest.raises(ConfigError, match="spm_unigram50.txt: lacks 46 of the 46 tokens"):
            make_task(data)

    def test_no_target_language_anywhere(self, data):
        change_config(data, tgt_lang=None)
        with pytest.raises(ConfigError, match="no key tgt_lang.*--tgt-lang"):
            make_task(data)

    @pytest.mark.parametrize("flag", ["--tgt-lang", "--source-lang"])
    def test_another_language(self, prepared, flag):
        with pytest.raises(ConfigError, match=f"train.tsv.*but fr was asked for; give {flag}"):
            make_task(prepared, flag, "fr").load_dataset("train")

    @pytest.mark.parametrize("flags", [["--mt-finetune"], ["--st-training", "--mt-finetune"]])
    def test_text_training_without_transcripts(self, data, flags):
        def without_transcript(number, row):
            return {**row, "src_text": ""} if number == 3 else row

        change_manifest(data, "train", without_transcript)
        name = read_manifest(data / "train.tsv")["id"][3]
        with pytest.raises(ConfigError, match=f"train: segment {name} has no src_text"):
            make_task(data, *flags).load_dataset("train")

    def test_text_of_another_vocabulary(self, data):
        change_manifest(data, "train", lambda number, row: {**row, "tgt_text": "кто там живёт"})
        with pytest.raises(ConfigError, match="train, tgt_text: .* unknown to the dictionary"):
            make_task(data).load_dataset("train")

    def test_external_text_without_a_folder(self, prepared):
        with pytest.raises(ConfigError, match="--text-data FOLDER"):
            make_task(prepared, "--ext-mt-training")

    def test_external_text_that_is_not_there(self, prepared, tmp_path):
        task = make_task(prepared, "--ext-mt-training", "--text-data", tmp_path)
        with pytest.raises(ConfigError, match="train.en-de.en.idx: no such file"):
            task.load_dataset("train")

    def test_external_text_of_another_dictionary(self, data):
        lines = (data / "binary" / "dict.en.txt").read_text().splitlines(keepends=True)
        (data / "binary" / "dict.en.txt").write_text("".join(lines[1:]))
        with pytest.raises(ConfigError, match="dict.en.txt: another dictionary than"):
            mixed(data).load_dataset("train")

    @pytest.mark.parametrize(
        "file, change, message",
        [
            ("de.bin", lambda whole: b"", "de.bin: is empty"),
            ("en.bin", lambda whole: whole[:-10], r"en.bin: \d+ bytes, expected \d+ for the 40"),
            ("en.idx", lambda whole: b"", "en.idx: is empty"),
            ("en.idx", lambda whole: whole[:6], "en.idx: is truncated: 6 bytes"),
            ("de.idx", lambda whole: whole[:20], "de.idx: is truncated: 20 bytes"),
            ("de.idx", lambda whole: whole[:-50], r"de.idx: .* expected 506 for 40 sentences"),
            ("de.idx", None, "de.idx: no such file"),
        ],
    )
    def test_external_text_that_is_damaged(self, data, file, change, message):
        path = data / "binary" / f"train.en-de.{file}"
        whole = path.read_bytes()
        path.unlink()
        if change is not None:
            path.write_bytes(change(whole))
        with pytest.raises(ConfigError, match=f"{message}.*prepare-mustc"):
            mixed(data).load_dataset("train")

    def test_external_text_of_another_length_on_each_side(self, data):
        for end in ("bin", "idx"):
            shutil.copy(data / f"binary/dev.en-de.de.{end}", data / f"binary/train.en-de.de.{end}")
        with pytest.raises(ConfigError, match="en.idx: 40 sentences, but .*de.idx has 12"):
            mixed(data).load_dataset("train")

    @pytest.mark.parametrize("ratio", ["0", "1.5", "-1"])
    def test_a_share_that_is_none(self, prepared, ratio):
        with pytest.raises(ConfigError, match="--ext-mt-ratio"):
            mixed(prepared, "--ext-mt-ratio", ratio)

    @pytest.mark.parametrize(
        "flags, options, message",
        [
            (["--max-audio-positions", "99"], {}, r"segments .* 99 samples .* longest has {most}"),
            ([], {"max_tokens": 200}, r"segments is within the limits, 200 samples .*{most}"),
            (["--max-source-positions", "1", "--mt-finetune"], {}, "sentence pairs .* 1 tokens"),
            (
                [*MIXED, "--text-data", "binary", "--max-audio-positions", "90"],
                {},
                "segments .* 90 samples .* {most}",
            ),
            (
                [*MIXED, "--text-data", "binary", "--max-tokens-text", "2"],
                {},
                "sentence pairs .* 2 tokens",
            ),
        ],
        ids=["positions", "tokens", "text", "mixed speech", "mixed text"],
    )
    def test_none_is_short_enough(self, prepared, flags, options, message):
        flags = [prepared / "binary" if flag == "binary" else flag for flag in flags]
        longest = int(read_manifest(prepared / "train.tsv")["n_frames"].max())
        message = f"train: none of its 40 {message}".format(most=longest)
        with pytest.raises(ConfigError, match=message):
            batches(make_task(prepared, *flags), **options)

    def test_segments_too_short_for_the_encoder_are_counted(self, data, prepared, caplog):
        make_task(prepared).load_dataset("dev")
        assert "fewer than" not in caplog.text
        change_manifest(
            data, "dev", lambda number, row: {**row, "n_frames": 399} if 0 < number < 4 else row
        )
        make_task(data).load_dataset("dev")
        second = read_manifest(data / "dev.tsv")["id"][1]
        assert "dev: 3 of 12 segments have fewer than 400 samples" in caplog.text
        assert f"the first: {second}" in caplog.text

    def test_more_processes_than_batches_of_a_mode(self, prepared):
        task = mixed(prepared)
        task.load_dataset("train")
        with pytest.raises(ConfigError, match="1 batches of mode ext_mt for 2 processes"):
            task.get_batch_iterator(task.dataset("train"), max_tokens=100_000, num_shards=2)

    def test_data_parallelism_that_would_hang(self, prepared):
        flags = ("--distributed-world-size", "2", "--ddp-backend", "pytorch_ddp")
        with pytest.raises(ConfigError, match="legacy_ddp"):
            mixed(prepared, *flags)
        mixed(prepared, *flags, "--find-unused-parameters")
        make_task(prepared, *flags, "--st-training", "--mt-finetune")

    def test_checkpoints_compared_by_a_bleu_that_is_not_counted(self, prepared):
        metric = ("--best-checkpoint-metric", "bleu")
        with pytest.raises(ConfigError, match="metric bleu needs --eval-bleu"):
            make_criterion(prepared, *metric)
        make_criterion(prepared, *metric, "--eval-bleu")
        make_criterion(prepared, *metric, "--disable-validation")
        make_criterion(prepared)

    @pytest.mark.parametrize("mode", [["--st-training"], ["--mt-finetune"]])
    def test_checkpoints_compared_by_a_bleu_that_means_nothing(self, data, caplog, mode):
        def warned(split, *flags) -> int:
            caplog.clear()
            make_task(data, *mode, *flags).load_dataset(split)
            return caplog.text.count(f"{split}: no reference has four tokens")

        by_bleu = ("--eval-bleu", "--best-checkpoint-metric", "bleu")
        assert not warned("dev", *by_bleu)
        for split in ("train", "dev"):
            change_manifest(data, split, lambda number, row: {**row, "tgt_text": "ein Haus."})
        assert warned("dev", *by_bleu) == 1
        assert not warned("train", *by_bleu) and not warned("dev", "--eval-bleu")

    def test_a_checkpoint_of_another_dictionary(self, data, prepared):
        state = make_task(prepared).state_dict()
        make_task(prepared).load_state_dict(state)
        lines = (data / "spm_unigram50.txt").read_text().splitlines(keepends=True)
        (data / "spm_unigram50.txt").write_text("".join(lines[::-1]))
        with pytest.raises(CheckpointError, match="another dictionary .*spm_unigram50.txt"):
            make_task(data).load_state_dict(state)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_waveforms_are_normalised_as_in_pretraining(self, data, tmp_path, normalize):
        make_hubert(tmp_path / "hubert.pt", task={"normalize": normalize})
        cfg = parse(data, "--hubert-model-path", tmp_path / "hubert.pt")
        change_config(data, standardize_audio=normalize)
        task = make_task(data)
        make_model(cfg, task)
        task.load_dataset("dev")
        variance = float(task.dataset("dev")[0]["audio"].var())
        assert (abs(variance - 1) < 0.01) is normalize
        change_config(data, standardize_audio=not normalize)
        with pytest.raises(ConfigError, match=f"standardize_audio is {not normalize}"):
            make_model(cfg, make_task(data))


def test_empty_translations_have_a_bleu_of_0_and_count_among_others(prepared):
    task = make_task(prepared, "--eval-bleu")
    criterion = make_criterion(prepared)

    def log(matched, words, reference):
        found = {
            f"_bleu_{kind}_{n}": max(0, count - n)
            for n in range(4)
            for kind, count in (("counts", matched), ("totals", words))
        }
        lengths = {"_bleu_sys_len": words, "_bleu_ref_len": reference}
        return {**found, **lengths, "loss": 1, "nll_loss": 1, "ntokens": 1, "sample_size": 1}

    def bleu(*batches):
        with metrics.aggregate(new_root=True) as logged:
            for batch in batches:
                task.reduce_metrics([log(*batch)], criterion)
        return logged.get_smoothed_values()["bleu"]

    assert bleu((0, 0, 9)) == bleu((0, 0, 9), (0, 0, 4)) == 0
    assert bleu((8, 8, 8)) == 100
    shorter = 100 * math.exp(1 - 16 / 8)  # the brevity penalty
    assert (
        bleu((8, 8, 8), (0, 0, 8)) == bleu((0, 0, 8), (8, 8, 8)) == pytest.approx(shorter, abs=0.01)
    )


def test_the_digest_tells_dictionaries_apart(prepared):
    dictionary = Dictionary.load(str(prepared / "spm_unigram50.txt"))
    digest = dictionary_digest(dictionary)
    assert digest == dictionary_digest(Dictionary.load(str(prepared / "spm_unigram50.txt")))
    dictionary.add_symbol("another")
    assert dictionary_digest(dictionary) != digest


class TestInference:
    def test_audio_from_anywhere(self, prepared, release, monkeypatch):
        monkeypatch.chdir(release / "en-de" / "data")
        task = make_task(prepared)
        frame = read_manifest(prepared / "dev.tsv")
        lines = frame["audio"].tolist()[:2]
        tokens, lengths = task.get_interactive_tokens_and_lengths(lines, encode_fn=None)
        assert list(lengths) == frame["n_frames"].tolist()[:2]
        dataset = task.build_dataset_for_inference(tokens, lengths)
        task.load_dataset("dev")
        for index in range(2):
            assert torch.equal(dataset[index]["audio"], task.dataset("dev")[index]["audio"])

    def test_sentences(self, prepared):
        task = make_task(prepared, "--text-input")
        encode = task._tokenize
        tokens, lengths = task.get_interactive_tokens_and_lengths(["the man sees water."], encode)
        dataset = task.build_dataset_for_inference(tokens, lengths)
        batch = dataset.collater([dataset[0]])
        assert task.src_dict.string(batch["net_input"]["src_tokens"], "sentencepiece") == (
            "the man sees water."
        )
