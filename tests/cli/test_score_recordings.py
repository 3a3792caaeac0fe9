"""Scoring translations of whole recordings, made here or before."""

import json
import sys
import unicodedata

import pytest
import sacrebleu

from cress_svcd.cli.main import main
from cress_svcd.data.corpus.manifest import read_manifest, write_manifest
from cress_svcd.evaluation.recordings import read_recordings
from tests.helpers.translation_model import make_checkpoint

# Recording, offset and length in seconds, text; the rows of a recording need not lie together.
ROWS = [
    ("talks/one.wav", 1.0, 2.0, "Das Haus ist größer."),
    ("talks/two.v2.wav", 0.5, 1.5, "Ja, Wasser!"),
    ("talks/one.wav", 4.0, 2.5, "Ein Hund und eine Katze."),
]
TEXTS = [row[3] for row in ROWS]
RATE = 44_100
EXACT = ["Das Haus ist größer.", "Ja, Wasser!", "Ein Hund oder eine Katze."]
FLAGS = ["--beam", "2", "--max-len-b", "8", "--device", "cpu"]


@pytest.fixture
def manifest(tmp_path):
    rows = [
        {
            "id": f"t_{number}",
            "audio": f"{path}:{round(start * RATE)}:{round(seconds * RATE)}",
            "n_frames": round(16_000 * seconds),
            "tgt_text": text,
            "src_text": f"s{number}",
            "tgt_lang": "de",
        }
        for number, (path, start, seconds, text) in enumerate(ROWS)
    ]
    write_manifest(tmp_path / "tst.tsv", rows)
    return tmp_path / "tst.tsv"


def segment(source: str, start: float, end: float, text: str) -> str:
    return json.dumps({"source": source, "start": start, "end": end, "text": text}) + "\n"


@pytest.fixture
def translations(tmp_path):
    """The first recording in one segment, as a cutter may leave it."""
    path = tmp_path / "translations.jsonl"
    path.write_text(
        segment("/elsewhere/two.v2.flac", 0.5, 2.0, "Ja, Wasser!")
        + segment("/elsewhere/one.flac", 1.0, 6.5, "Das Haus ist größer. Ein Hund und Katze."),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def exact(tmp_path):
    path = tmp_path / "exact.txt"
    lines = [f"D-{number}\t-0.5\t{text}\n" for number, text in enumerate(EXACT)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def score(tmp_path, manifest, capsys):
    """Runs the command; returns status, the JSON report, standard output and standard error."""

    def run(*arguments, manifest=manifest):
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        options = ["--recordings", "--manifest", manifest, "--json", out]
        status = main(["score", *map(str, [*options, *arguments])])
        report = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
        return status, report, *capsys.readouterr()

    return run


def subtitle(start: str, end: str, text: str) -> str:
    return f"1\n00:00:{start} --> 00:00:{end}\n{text}\n\n"


@pytest.fixture
def perfect(tmp_path):
    """A folder of subtitles that are the references."""
    folder = tmp_path / "subtitles" / "talks"
    folder.mkdir(parents=True)
    one = subtitle("01,000", "03,000", TEXTS[0]) + subtitle("04,000", "06,500", TEXTS[2])
    (folder / "one.srt").write_text(one, encoding="utf-8")
    (folder / "two.v2.srt").write_text(subtitle("00,500", "02,000", TEXTS[1]), encoding="utf-8")
    (folder / "._one.srt").write_bytes(bytes.fromhex("0005160700020000"))  # macOS's
    return folder.parent


def test_what_the_manifest_says_of_its_recordings(manifest):
    one, two = read_recordings(manifest)
    assert (one.path, two.path, one.language) == ("talks/one.wav", "talks/two.v2.wav", "de")
    assert [(each.row, each.start, each.end) for each in one.references] == [
        (0, 1.0, 3.0),
        (2, 4.0, 6.5),
    ]


def test_hypotheses_stand_next_to_the_references_they_belong_to(score, translations, exact):
    status, report, out, err = score(translations, "--exact", exact)
    found = ["Das Haus ist größer.", "Ja, Wasser!", "Ein Hund und Katze."]
    assert status == 0 and "recordings" not in err
    assert [each["hypothesis"] for each in report["translations"]] == found
    assert report["translations"][2] == {
        "id": "t_2",
        "source": "s2",
        "reference": TEXTS[2],
        "hypothesis": found[2],
    }
    assert report["bleu"] == round(sacrebleu.corpus_bleu(found, [TEXTS]).score, 2)
    assert report["chrf"] == round(sacrebleu.corpus_chrf(found, [TEXTS]).score, 2)
    assert (report["recordings"], report["sentences"]) == (2, 3)
    assert report["missing"] == report["silent"] == []
    bleu = round(sacrebleu.corpus_bleu(EXACT, [TEXTS]).score, 2)
    assert report["exact"]["bleu"] == bleu and report["exact"]["output"] == str(exact)
    assert report["share"]["bleu"] == round(report["bleu"] / bleu, 4)
    assert f"{report['share']['bleu']:.1%} of the BLEU ({bleu:.2f})" in out
    # A word too few, and the break between the segments of the first: of 11 words and 3 breaks.
    assert report["suber"] == round(100 * 2 / 14, 2) and f"SubER {report['suber']:.2f}" in out
    assert report["alignment"].startswith("mweralign") and report["alignment"] in out


def test_subtitles_that_are_the_references(score, perfect):
    _, report, _, _ = score(perfect)
    assert report["bleu"] == report["chrf"] == 100
    assert report["suber"] == report["suber_cased"] == 0


def test_ttml_is_read_as_well(score, tmp_path):
    (tmp_path / "ttml").mkdir()
    for name, cues in (
        ("one", ((1, 3, TEXTS[0]), (4, 6.5, TEXTS[2]))),
        ("two.v2", ((0.5, 2, TEXTS[1]),)),
    ):
        cues = "".join(f'<p begin="{a}s" end="{b}s">{text}</p>' for a, b, text in cues)
        text = f'<tt xmlns="http://www.w3.org/ns/ttml"><body><div>{cues}</div></body></tt>'
        (tmp_path / "ttml" / f"{name}.ttml").write_text(text, encoding="utf-8")
    _, report, _, _ = score(tmp_path / "ttml")
    assert report["bleu"] == 100 and report["suber_cased"] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines_of_any_name_and_order(score, translations, tmp_path, encoding):
    lines = translations.read_text(encoding="utf-8").splitlines(keepends=True)
    expected = score(translations)[1]
    (tmp_path / "translated").write_text("\n".join(lines[::-1]), encoding=encoding)
    found = score(tmp_path / "translated")[1]
    assert found["translations"] == expected["translations"]
    late, early = segment("one.wav", 4, 6.5, TEXTS[2]), segment("one.wav", 1, 3, TEXTS[0])
    translations.write_text(late + early, encoding="utf-8")
    assert score(translations)[1]["translations"][0]["hypothesis"] == TEXTS[0]


def test_references_without_words(score, manifest, translations):
    text = manifest.read_text(encoding="utf-8")
    for reference in TEXTS:
        text = text.replace(reference, "")
    manifest.write_text(text, encoding="utf-8")
    status, report, _, err = score(translations)
    assert status == 2 and report is None and len(err.splitlines()) == 1
    assert "tst.tsv: no reference in it has a word; expected translations" in err


def test_the_scores_of_the_exact_cuts_may_be_a_report(
    score, translations, exact, manifest, tmp_path
):
    main(["score", str(exact), "--manifest", str(manifest), "--json", str(tmp_path / "e.json")])
    report = score(translations, "--exact", tmp_path / "e.json")[1]
    assert report["share"] == score(translations, "--exact", exact)[1]["share"]


def test_several_translations_give_several_reports(score, translations, perfect):
    _, reports, _, _ = score(translations, perfect)
    assert [report["output"] for report in reports] == [str(translations), str(perfect)]
    assert reports[0]["bleu"] < reports[1]["bleu"] == 100


class TestRecordingsThatLack:
    def test_one_without_a_translation_counts_as_empty(self, score, translations):
        translations.write_text(segment("one.wav", 1, 6.5, f"{TEXTS[0]} {TEXTS[2]}"), "utf-8")
        status, report, _, err = score(translations)
        assert status == 0 and report["missing"] == ["talks/two.v2.wav"]
        assert [each["hypothesis"] for each in report["translations"]] == [TEXTS[0], "", TEXTS[2]]
        assert "1 recording without a translation, counted as" in err and "two.v2.wav" in err

    def test_nothing_heard(self, score, perfect):
        (perfect / "talks" / "two.v2.srt").write_text("")
        status, report, _, err = score(perfect)
        assert status == 0 and report["silent"] == ["talks/two.v2.wav"] and not report["missing"]
        assert report["translations"][1]["hypothesis"] == ""
        assert report["suber"] == round(100 * 3 / 14, 2)
        assert "translated to nothing: talks/two.v2.wav" in err

    def test_others_are_left_out(self, score, translations):
        with open(translations, "a", encoding="utf-8") as file:
            file.write(segment("three.wav", 0, 1, "mehr"))
        status, report, _, err = score(translations)
        assert status == 0 and not report["missing"] and "not of the manifest" in err
        assert "three" in err and "mehr" not in str(report["translations"])


@pytest.fixture(scope="module")
def checkpoint(prepared, hubert, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.pt", prepared, hubert)


@pytest.mark.slow
class TestModels:
    def test_a_model_is_scored_as_its_translations_are(
        self, score, checkpoint, prepared, release, tmp_path
    ):
        manifest = prepared / "tst-COMMON.tsv"
        status, report, _, _ = score(checkpoint, *FLAGS, manifest=manifest)
        assert status == 0 and report["missing"] == []
        frame = read_manifest(manifest)
        assert [each["reference"] for each in report["translations"]] == list(frame["tgt_text"])
        wav, out = release / "en-de" / "data" / "tst-COMMON" / "wav", tmp_path / "t.jsonl"
        options = ["--output-format=jsonl", "-o", str(out)]
        assert main(["translate", str(checkpoint), *FLAGS, str(wav), *options]) == 0
        made = score(out, manifest=manifest)[1]
        assert made["translations"] == report["translations"]
        assert any(each["hypothesis"] for each in made["translations"])
        assert (made["bleu"], made["chrf"]) == (report["bleu"], report["chrf"])

    def test_options_are_those_of_translate(self, score, checkpoint, prepared):
        manifest = prepared / "tst-COMMON.tsv"
        words = [
            sum(len(each["hypothesis"].split()) for each in report["translations"])
            for report in (
                score(checkpoint, *FLAGS, *more, manifest=manifest)[1]
                for more in ([], ["--no-segmentation", "--data", str(prepared)])
            )
        ]
        assert words[0] > words[1] > 0  # a recording as one segment has few words

    def test_recordings_of_one_name_and_one_that_is_missing(
        self, score, checkpoint, prepared, release, tmp_path
    ):
        audio = release / "en-de" / "data" / "tst-COMMON" / "wav"
        (wav, *_) = sorted(audio.glob("*.wav"))
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "x.wav").write_bytes(wav.read_bytes())
        rows = [
            {"id": name, "audio": name, "n_frames": 16_000, "tgt_text": "Das Haus."}
            for name in ("a/x.wav", "b/x.wav", "c/x2.wav")
        ]
        write_manifest(tmp_path / "m.tsv", rows)
        status, report, _, err = score(checkpoint, *FLAGS, manifest=tmp_path / "m.tsv")
        assert status == 1 and report["missing"] == ["c/x2.wav"] and "c/x2.wav" in err
        first, second, missing = (each["hypothesis"] for each in report["translations"])
        assert first == second != missing == ""

    def test_a_name_with_letters_composed_otherwise(
        self, score, checkpoint, prepared, release, tmp_path
    ):
        """The manifest came from one system, the recording from another."""
        (wav, *_) = sorted((release / "en-de" / "data" / "tst-COMMON" / "wav").glob("*.wav"))
        composed, decomposed = (unicodedata.normalize(form, "télé.wav") for form in ("NFC", "NFD"))
        (tmp_path / "é").mkdir()
        (tmp_path / "é" / decomposed).write_bytes(wav.read_bytes())
        audio = f"é/{composed}"
        row = {"id": "a", "audio": audio, "n_frames": 16_000, "tgt_text": "Das Haus."}
        write_manifest(tmp_path / "m.tsv", [row])
        status, report, _, _ = score(checkpoint, *FLAGS, manifest=tmp_path / "m.tsv")
        assert status == 0 and not report["missing"] and report["translations"][0]["hypothesis"]
        written = tmp_path / "t.jsonl"
        written.write_text(segment(f"x/{decomposed}", 0, 1, "Das Haus."), encoding="utf-8")
        assert score(written, manifest=tmp_path / "m.tsv")[1]["translations"][0]["hypothesis"]


class TestErrors:
    def test_shards_are_no_recordings(self, score, translations, prepared, tmp_path):
        assert main(["shard-audio", str(prepared), "-o", str(tmp_path / "shards")]) == 0
        manifest = tmp_path / "shards" / "tst-COMMON.tsv"
        status, _, _, err = score(translations, manifest=manifest)
        assert status == 2 and f"{manifest}: its audio was packed by shard-audio" in err
        assert "of the folder that it was made of" in err

    @pytest.mark.parametrize(
        "line, message",
        [
            ('{"source": "one.wav", "text": "a"}', ":1: no start; expected a line of 'cress-svcd"),
            ('["one.wav"]', ":1: no source"),
            ("Das Haus", ":1: is not JSON"),
            (segment("one.wav", 2, 1, "a"), ":1: from 2.0 to 1.0 s"),
            (segment("x.wav", 1, 2, "a"), "no recording of the manifest in it; it has x, and the"),
            (
                segment("a/one.wav", 1, 2, "a") + segment("b/one.wav", 1, 2, "a"),
                "a/one and b/one both may be talks/one.wav",
            ),
            (
                segment("one.wav", 1, 2, "a") + segment("one.flac", 1, 2, "a"),
                "one for the second time",
            ),
            (
                segment("one.wav", 1, 2, "a") * 2,
                ":2: one.wav has this segment in line 1 already",
            ),
            (
                "".join(
                    json.dumps({**json.loads(segment("one.wav", time, 9, "a")), "segment": 0})
                    + "\n"
                    for time in (1, 2)
                ),
                ":2: one.wav has this segment in line 1 already",
            ),
            ('{"source": "one.wav", "start": true, "end": 2, "text": "a"}', ":1: no start"),
            ('{"source": "one.wav", "start": NaN, "end": 2, "text": "a"}', ":1: no start"),
            ('{"source": "one.wav", "start": 1, "end": Infinity, "text": "a"}', ":1: no end"),
            (f'{{"source": "x", "start": 1, "end": {"9" * 400}, "text": "a"}}', ":1: no end"),
            (f'{{"source": "x", "start": {"9" * 5000}}}', ":1: is not JSON"),
            ('{"source": "x", "source": "y"}', ":1: is not JSON (the key 'source' stands twice"),
            ("[" * 100_000, ":1: is not JSON (too many levels"),
            (segment("one.wav", 1, 2, "\ud800"), ":1: text has half of a character"),
            (segment("one.wav", 1, 2, "a") + "\0", ":2: is not JSON"),
        ],
    )
    def test_lines_of_something_else(self, score, translations, line, message):
        translations.write_text(line, encoding="utf-8")
        status, report, _, err = score(translations)
        assert status == 2 and report is None and f"{translations}" in err and message in err

    @pytest.mark.parametrize(
        "name, content, message",
        [
            ("a.jsonl", None, "a.jsonl: no such file or folder; expected a model, or what"),
            ("model.pt", None, "model.pt: no such file or folder; expected a model, or what"),
            ("a", "1\n00:00:01,000 --> 00:00:02,000\nx\n", "looks like subtitles; give it the"),
            ("a", "WEBVTT\n\n00:01.000 --> 00:02.000\nx\n", "looks like subtitles; give it the"),
            ("a", '<?xml version="1.0"?><tt/>', "looks like subtitles; give it the suffix .srt"),
            ("a.txt", "D-0\t-0.5\tDas Haus\n", "is an output of fairseq-generate, of segments"),
        ],
    )
    def test_what_is_neither_a_model_nor_translations(
        self, score, tmp_path, name, content, message
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        status, report, _, err = score(tmp_path / name)
        assert status == 2 and report is None and message in err and len(err.splitlines()) == 1

    def test_a_folder_of_nothing(self, score, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "empty: no translation in it" in score(tmp_path / "empty")[3]

    def test_two_formats_in_one_folder(self, score, perfect):
        (perfect / "talks" / "one.vtt").write_text("WEBVTT\n")
        assert "talks/one for the second time" in score(perfect)[3]

    def test_a_name_that_two_recordings_have(self, score, manifest, translations):
        text = manifest.read_text(encoding="utf-8").replace("talks/two.v2.wav", "other/one.wav")
        manifest.write_text(text, encoding="utf-8")
        assert "one may be talks/one.wav or other/one.wav" in score(translations)[3]
        translations.write_text(
            segment("x/talks/one.wav", 1, 6.5, "a") + segment("x/other/one.wav", 1, 2, "b")
        )
        assert score(translations)[0] == 0

    @pytest.mark.parametrize(
        "content, message",
        [
            ("{}", "no bleu, chrf, sentences, bleu_signature in it"),
            ("[", "is not JSON"),
            (
                '{"bleu": 1, "chrf": 1, "sentences": 7, "bleu_signature": ""}',
                "sentences 7, but the recordings have 3",
            ),
        ],
    )
    def test_exact_cuts_of_something_else(self, score, translations, tmp_path, content, message):
        (tmp_path / "e.json").write_text(content)
        assert message in score(translations, "--exact", tmp_path / "e.json")[3]

    def test_nothing_to_share(self, score, translations, exact):
        exact.write_text("".join(f"D-{i}\t-1\tx\n" for i in range(3)))
        _, report, out, _ = score(translations, "--exact", exact)
        assert report["share"]["bleu"] is None and "of exact cuts" in out

    @pytest.mark.parametrize("module", ["mweralign", "suber"])
    def test_without_the_extra(self, score, translations, monkeypatch, module):
        monkeypatch.setitem(sys.modules, module, None)
        status, _, _, err = score(translations)
        assert status == 2 and "pip install 'cress_svcd[score]'" in err

    def test_options_that_belong_together(self, translations, exact, capsys):
        assert main(["score", "--recordings", str(translations)]) == 2
        assert "--manifest is missing" in capsys.readouterr().err
        assert main(["score", str(exact), "--exact", str(exact)]) == 2
        assert "--exact: only with --recordings" in capsys.readouterr().err
