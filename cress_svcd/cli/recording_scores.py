"""Scores of whole recordings: by 'cress-svcd translate' where a model is given."""

import argparse
import sys
import tempfile
from pathlib import Path

from cress_svcd.cli import translate
from cress_svcd.cli.logs import shows_notes
from cress_svcd.errors import ConfigError
from cress_svcd.evaluation import recordings
from cress_svcd.evaluation.recording_translations import (
    RecordingTranslation,
    assign,
    holds_translations,
    read_subtitled,
    read_translations,
)

NAMED = 3


class RecordingScores:
    """The recordings of a manifest, against which translations of them are scored."""

    def __init__(self, args: argparse.Namespace):
        if not args.manifest:
            raise ConfigError(
                "--recordings: --manifest is missing, which says where each reference was spoken"
            )
        recordings.require_extras()  # rather than after all has been translated
        self.args, self.status = args, 0
        self.recordings = recordings.read_recordings(args.manifest)
        self.exact = args.exact and recordings.read_exact(args.exact, args.manifest, args.tokenize)

    def score(self, path: Path) -> dict:
        if holds_translations(path):
            names = [recording.path for recording in self.recordings]
            translations, others = assign(read_translations(path), names, path)
            tell("not of the manifest, left out", others)
        else:
            translations = self.translate(path)
        report = recordings.score_recordings(self.recordings, translations, self.args.tokenize)
        tell("without a translation, counted as translated to nothing", report["missing"])
        tell("translated to nothing", report["silent"])
        if self.exact:
            report |= recordings.compare_with_exact(report, self.exact, self.args.exact)
        return report

    def translate(self, model: Path) -> dict[str, RecordingTranslation]:
        """By 'cress-svcd translate', into subtitles; its options have the values of ours."""
        parser = argparse.ArgumentParser()
        translate.add_arguments(parser)
        options = vars(parser.parse_args([str(model), "--output-format=srt"]))
        options |= {key: value for key, value in vars(self.args).items() if key in options}
        options["tgt_lang"] = recordings.language_of_several(self.args.manifest, self.recordings)
        translations = {}
        with tempfile.TemporaryDirectory(prefix="cress-svcd-") as folder:
            # Recordings of one name, from several folders, would have one file of subtitles.
            for number, group in enumerate(recordings.with_distinct_names(self.recordings)):
                options["output"] = f"{folder}/{number}/"
                options["inputs"] = recordings.audio_files(self.args.manifest, group)
                self.status |= bool(translate.run(argparse.Namespace(**options)))
                for recording, source in zip(group, options["inputs"], strict=True):
                    written = Path(options["output"], Path(source).stem + ".srt")
                    if written.is_file():
                        translations[recording.path] = read_subtitled(written)
        if not translations:
            raise ConfigError(
                f"{model}: no recording of {self.args.manifest} could be translated; the reasons "
                "stand above"
            )
        return translations


def tell(what: str, names: list[str]) -> None:
    """One line about recordings, the first of them by name."""
    if names and shows_notes():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        named = ", ".join(names[:NAMED]) + more
        count = "1 recording" if len(names) == 1 else f"{len(names)} recordings"
        print(f"cress-svcd score: {count} {what}: {named}", file=sys.stderr)
