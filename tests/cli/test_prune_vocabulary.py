"""prune-vocabulary: the smaller model computes and translates the same."""

import re
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator

from cress_svcd.cli.main import main
from cress_svcd.data.config import dictionary_digest
from cress_svcd.data.corpus.manifest import Segment, write_manifest
from cress_svcd.data.corpus.vocabulary import load_sentencepiece
from cress_svcd.models.checkpoints import read_checkpoint
from tests.helpers.deltalm_files import TINY, TINY_HEADS, build, save_finetuned
from tests.helpers.large_vocabulary import write_vocabulary

CORPUS = [
    f"{subject} {verb} {thing}."
    for subject in ("the man", "a woman", "der Hund", "mein Kind")
    for verb in ("sees", "buys", "kauft")
    for thing in ("an apple", "water", "das Haus")
] + ["the dog sleeps", "es regnet", "bread and wine", "ein Buch"]
ENTRIES = 100


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A vocabulary of 100 entries, and of the corpus a plain text and a manifest."""
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder, CORPUS, ENTRIES)
    (folder / "corpus.txt").write_text("".join(f"{line}\n" for line in CORPUS[:20]))
    rows = [
        Segment(str(i), "a.wav:0:9", 9, CORPUS[i + 1], "", CORPUS[i], "en", "de")
        for i in range(20, 40, 2)
    ]
    write_manifest(folder / "corpus.tsv", rows)
    return folder


def prune(files: Path, checkpoint: Path, out: Path, dictionary: Path | None = None) -> int:
    command = [
        "prune-vocabulary",
        checkpoint,
        "--spm-model",
        files / "spm.model",
        "-o",
        out,
        "--dictionary",
        dictionary or files / "dict.txt",
        "--text",
        files / "corpus.txt",
        files / "corpus.tsv",
    ]
    return main([str(word) for word in command])


def kept_entries(files: Path, out: Path) -> torch.Tensor:
    large = Dictionary.load(str(files / "dict.txt"))
    small = Dictionary.load(str(out / "dict.txt"))
    return torch.tensor([large.indices[symbol] for symbol in small.symbols])


def batch(files: Path, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The corpus as the vocabulary in ``folder`` writes it: tokens and lengths."""
    processor = load_sentencepiece(folder / "spm.model")
    entries = Dictionary.load(str(folder / "dict.txt"))
    rows = [
        entries.encode_line(" ".join(processor.encode(line, out_type=str)), add_if_not_exist=False)
        for line in CORPUS
    ]
    rows = [row.long() for row in rows]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    return tokens, torch.tensor([len(row) for row in rows])


@pytest.fixture(scope="module")
def unlikely(files, tmp_path_factory) -> Path:
    """The tiny DeltaLM, which never produces what the corpus does not use.

    One dimension, in which the decoder's output always is large, is kept for that.
    """
    folder = tmp_path_factory.mktemp("unlikely")
    assert prune(files, TINY, folder / "probe") == 0
    kept = kept_entries(files, folder / "probe")
    state = read_checkpoint(TINY)
    weights = state["weights"]
    weights["decoder.layers.1.final_layer_norm.bias"][0] += 20.0
    for side in ("src", "tgt"):
        table = weights[f"{side}_embedding.embed_tokens.weight"]
        table[:, 0] = -20.0
        table[kept, 0] = 0.0
    torch.save(state, folder / "deltalm.pt")
    return folder / "deltalm.pt"


def models(files: Path, checkpoint: Path, out: Path):
    assert prune(files, checkpoint, out) == 0
    kept = kept_entries(files, out)
    assert 20 < len(kept) < 80
    large = build(checkpoint, ENTRIES, **TINY_HEADS)
    small = build(out / checkpoint.name, len(kept), **TINY_HEADS)
    return large, small, kept


def test_states_and_scores_are_the_same(files, tmp_path):
    large, small, kept = models(files, TINY, tmp_path)
    assert small.encoder.embed_tokens.weight is small.decoder.embed_tokens.weight
    source, lengths = batch(files, files)
    source_small, lengths_small = batch(files, tmp_path)
    assert torch.equal(kept[source_small], source) and torch.equal(lengths, lengths_small)
    logits, extra = large(source, lengths, source[:, :6])
    logits_small, extra_small = small(source_small, lengths, source_small[:, :6])
    assert torch.equal(
        extra["encoder_out"]["encoder_out"][0], extra_small["encoder_out"]["encoder_out"][0]
    )
    torch.testing.assert_close(logits_small, logits[..., kept], rtol=0, atol=1e-6)


@pytest.mark.parametrize("beam", [1, 5])
def test_translations_are_the_same(files, unlikely, tmp_path, beam):
    large, small, kept = models(files, unlikely, tmp_path)
    found = []
    for model, folder in ((large, files), (small, tmp_path)):
        source, lengths = batch(files, folder)
        generator = SequenceGenerator(
            [model], model.decoder.dictionary, beam_size=beam, max_len_b=12, normalize_scores=True
        )
        sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}
        found.append([best[0] for best in generator.generate([model], sample)])
    assert len({tuple(best["tokens"].tolist()) for best in found[0]}) > 3
    for before, after in zip(*found):
        assert torch.equal(kept[after["tokens"]], before["tokens"])
        assert float(after["score"]) == pytest.approx(float(before["score"]), abs=1e-5)


class TestFairseqsForm:
    @pytest.fixture
    def trained(self, files, tmp_path) -> Path:
        digest = dictionary_digest(Dictionary.load(str(files / "dict.txt")))
        extra = {
            "task_state": {"dictionary_digest": digest},
            "last_optimizer_state": {"state": torch.ones(ENTRIES, 32)},
            "extra_state": {"epoch": 3},
        }
        return save_finetuned(build(ctc_head=True), tmp_path / "tuned.pt", **extra)

    def test_every_row_of_the_vocabulary(self, files, trained, tmp_path):
        assert prune(files, trained, tmp_path / "out") == 0
        before, after = read_checkpoint(trained), read_checkpoint(tmp_path / "out" / "tuned.pt")
        kept = kept_entries(files, tmp_path / "out")
        tables = [
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "decoder.output_projection.weight",
            "encoder.ctc_head.weight",
            "encoder.ctc_head.bias",
        ]
        for name, value in before["model"].items():
            value = value[kept] if name in tables else value
            assert torch.equal(after["model"][name], value), name
        small = Dictionary.load(str(tmp_path / "out" / "dict.txt"))
        assert after["task_state"]["dictionary_digest"] == dictionary_digest(small)
        assert "last_optimizer_state" not in after and after["extra_state"] == {"epoch": 3}
        size = (tmp_path / "out" / "tuned.pt").stat().st_size
        assert size < trained.stat().st_size - 4 * 32 * 10

    def test_of_another_dictionary_is_refused(self, files, trained, tmp_path, capsys):
        reordered = tmp_path / "dict.txt"
        reordered.write_text("".join(reversed((files / "dict.txt").read_text().splitlines(True))))
        assert prune(files, trained, tmp_path / "out", reordered) == 2
        assert "another dictionary" in capsys.readouterr().err

    def test_a_quantised_vocabulary_is_refused(self, files, trained, tmp_path, capsys):
        state = read_checkpoint(trained)
        state["model"]["decoder.output_projection.g"] = torch.ones(32)
        torch.save(state, trained)
        assert prune(files, trained, tmp_path / "out") == 2
        assert "decoder.output_projection.g" in capsys.readouterr().err


@pytest.mark.parametrize(
    "state, message",
    [
        ({"weights": {"x": torch.ones(3)}}, "no embeddings"),
        ({"model": {"encoder.embed_tokens.weight": torch.ones(50, 2)}}, "50 rows.* 100 entries"),
    ],
)
def test_what_is_no_model_is_refused(files, tmp_path, capsys, state, message):
    torch.save(state, tmp_path / "x.pt")
    assert prune(files, tmp_path / "x.pt", tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)


def test_nothing_is_written_over_what_it_came_from(files, tmp_path, capsys):
    assert prune(files, TINY, files) == 2
    assert "name another folder" in capsys.readouterr().err
