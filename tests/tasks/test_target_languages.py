"""The task over a corpus of two target languages."""

import shutil
from collections import Counter

import pytest
import torch
import yaml

from cress_svcd.data.corpus.manifest import read_manifest
from cress_svcd.errors import ConfigError
from tests.helpers.training_options import make_model, make_task, parse

MODES = {
    "speech": [],
    "transcripts": ["--mt-finetune"],
    "external": ["--ext-mt-training"],
    "mixed": ["--st-training", "--mt-finetune", "--ext-mt-training"],
}


def batches(task, split="train", **options):
    task.load_dataset(split)
    options = {"max_tokens": 100_000, **options}
    iterator = task.get_batch_iterator(task.dataset(split), **options)
    return list(iterator.next_epoch_itr(shuffle=split == "train"))


def texts_by_tag(task, found) -> Counter:
    """(tag, translation) of the rows of batches."""
    words = task.bpe.decode
    return Counter(
        (
            task.tgt_dict[inputs[0]],
            words(task.tgt_dict.string(target[target != task.tgt_dict.pad()])),
        )
        for batch in found
        for inputs, target in zip(batch["net_input"]["prev_output_tokens"], batch["target"])
    )


def expected(data, split="train", copies=1) -> Counter:
    frame = read_manifest(data / f"{split}.tsv")
    tags = [f"<lang:{code}>" for code in frame["tgt_lang"]]
    return Counter(dict.fromkeys(zip(tags, frame["tgt_text"]), copies))


@pytest.mark.parametrize("mode", MODES)
def test_each_translation_begins_with_its_tag_in_training(two_languages, mode):
    task = make_task(two_languages, *MODES[mode], "--text-data", two_languages / "binary")
    copies = 2 if mode == "mixed" else 1
    assert texts_by_tag(task, batches(task)) == expected(two_languages, copies=copies)


@pytest.mark.parametrize("flags", [[], ["--text-input"], ["--ext-mt-training"]])
def test_and_in_validation(two_languages, flags):
    task = make_task(two_languages, *flags, "--text-data", two_languages / "binary")
    assert texts_by_tag(task, batches(task, "dev")) == expected(two_languages, "dev")


@pytest.mark.parametrize("mode", MODES)
def test_one_language_is_read_alone(two_languages, mode):
    flags = [*MODES[mode], "--text-data", two_languages / "binary", "--tgt-lang", "ro"]
    found = texts_by_tag(task := make_task(two_languages, *flags), batches(task))
    romanian = {key for key in expected(two_languages) if key[0] == "<lang:ro>"}
    assert set(found) == romanian


def test_a_message_names_the_line_of_the_manifest(two_languages):
    task = make_task(two_languages, "--tgt-lang", "ro")
    task.load_dataset("dev")
    frame = read_manifest(two_languages / "dev.tsv")
    assert task.dataset("dev").places[0] == (
        f"{two_languages / 'dev.tsv'}:14: segment {frame['id'][12]}"
    )


@pytest.fixture
def uneven(two_languages, tmp_path):
    """A copy with all German rows of training and a fourth of the Romanian ones."""
    data = shutil.copytree(two_languages, tmp_path / "data")
    lines = (data / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "train.tsv").write_text("".join(lines[:51]), encoding="utf-8")
    return data


@pytest.mark.parametrize("flags", [["--sampling-alpha", "0"], ["config"]])
@pytest.mark.parametrize("mode", ["speech", "transcripts"])
def test_small_languages_come_more_often(uneven, flags, mode):
    if flags == ["config"]:
        path, flags = uneven / "config.yaml", []
        path.write_text(path.read_text() + "sampling_alpha: 0\n")
    task = make_task(uneven, *MODES[mode], *flags)
    found = batches(task)
    tags = Counter(tag for tag, _ in texts_by_tag(task, found).elements())
    assert tags["<lang:de>"] == 40
    assert 36 <= tags["<lang:ro>"] <= 50  # of equal size in samples or tokens, not in sentences
    again = texts_by_tag(task, batches(make_task(uneven, *MODES[mode], *flags)))
    assert again == texts_by_tag(task, found)


def test_validation_has_each_row_once_whatever_the_sampling(uneven):
    task = make_task(uneven, "--sampling-alpha", "0")
    assert texts_by_tag(task, batches(task, "dev")) == expected(uneven, "dev")


def test_joined_segments_are_of_one_language(two_languages):
    task = make_task(two_languages, "--join-segments", "0.2")
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert len(dataset) > 80
    for row in range(80, len(dataset)):
        text = task.bpe.decode(task.tgt_dict.string(dataset.targets[row]))
        tag = task.tgt_dict[int(dataset.starts[row])]
        romanian = any(letter in text for letter in "ăâî") or "vrea" in text or "casa" in text
        assert romanian == (tag == "<lang:ro>"), text


def test_a_model_of_one_language_has_batches_as_ever(prepared):
    task = make_task(prepared)
    assert task.languages == {}
    for batch in batches(task):
        assert "start_tokens" not in batch
        assert (batch["net_input"]["prev_output_tokens"][:, 0] == task.tgt_dict.eos()).all()


def test_generation_begins_each_row_with_its_own_tag(two_languages, hubert):
    cfg = parse(two_languages, "--hubert-model-path", hubert)
    task = make_task(two_languages)
    model = make_model(cfg, task).eval()
    for parameter in model.parameters():
        parameter.data.add_(
            torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
        )
    generation = torch.nn.Module()
    generation.beam, generation.max_len_b = 2, 8
    generator = task.build_generator([model], generation)
    (batch, *_) = batches(task, "dev", max_tokens=10**9)
    found = task.inference_step(generator, [model], batch)
    starts = batch["start_tokens"]
    assert len(set(starts.tolist())) == 2
    for row in range(len(starts)):
        inputs = {key: value[row : row + 1] for key, value in batch["net_input"].items()}
        alone = {"id": batch["id"][row : row + 1], "net_input": inputs}
        alone["start_tokens"] = starts[row : row + 1]
        (own,) = task.inference_step(generator, [model], alone)
        assert own[0]["tokens"].tolist() == found[row][0]["tokens"].tolist()
        best = own[0]["tokens"]
        previous = torch.cat([starts[row : row + 1], best[:-1]])[None]
        with torch.no_grad():
            states = model.encoder(inputs["src_tokens"], inputs["src_lengths"])
            logits, _ = model.decoder(previous, encoder_out=states)
        log_probs = logits.log_softmax(-1)[0].gather(1, best[:, None])
        assert float(own[0]["score"]) == pytest.approx(float(log_probs.mean()), abs=1e-3)
    assert set(task.languages.values()) <= generator.symbols_to_strip_from_output


class TestRefused:
    def test_another_language(self, two_languages):
        with pytest.raises(ConfigError, match="translates to de, ro, not to fr: .*--tgt-lang"):
            make_task(two_languages, "--tgt-lang", "fr")

    def test_a_dictionary_without_the_tags(self, two_languages, tmp_path):
        data = shutil.copytree(two_languages, tmp_path / "data")
        config = yaml.safe_load((data / "config.yaml").read_text())
        path = data / config["vocab_filename"]
        path.write_text(path.read_text(encoding="utf-8").replace("<lang:ro> 1\n", ""))
        with pytest.raises(ConfigError, match="no entry <lang:ro>"):
            make_task(data)

    def test_text_of_a_language_that_is_missing(self, two_languages, tmp_path):
        text = shutil.copytree(two_languages / "binary", tmp_path / "text")
        (text / "train.en-ro.en.idx").unlink()
        task = make_task(two_languages, "--ext-mt-training", "--text-data", text)
        with pytest.raises(ConfigError, match=r"train\.en-ro\.en\.idx: no such file"):
            task.load_dataset("train")

    def test_inference_without_a_language(self, two_languages):
        task = make_task(two_languages)
        with pytest.raises(ConfigError, match="translates to de, ro: choose one with --tgt-lang"):
            task.build_dataset_for_inference(["x.wav"], [16_000])
