"""The config of a prepared folder: names in it are text."""

import pytest

from cress_svcd.data.corpus.prepared import read_config
from cress_svcd.errors import ConfigError

CONFIG = """\
vocab_filename: {0}
bpe_tokenizer: {{bpe: sentencepiece, sentencepiece_model: {0}}}
audio_root: {0}
sample_rate: 16000
use_audio_input: yes
src_lang: {0}
tgt_lang: {0}
"""


@pytest.mark.parametrize("name", ["no", "yes", "on", "0012", "1e5", "1.10", "1:30", "2024-01-01"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_names_stay_text(tmp_path, name, mark):
    (tmp_path / "config.yaml").write_text(mark + CONFIG.format(name), encoding="utf-8")
    config = read_config(tmp_path)
    tokenizer = config.pop("bpe_tokenizer")
    names = {key: config[key] for key in ("vocab_filename", "audio_root", "src_lang", "tgt_lang")}
    assert set(names.values()) == {name} == {tokenizer["sentencepiece_model"]}
    assert (config["sample_rate"], config["use_audio_input"]) == (16000, True)


def test_what_is_no_name(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.format("[a]"))
    with pytest.raises(ConfigError, match="config.yaml: key vocab_filename: .*expected a name"):
        read_config(tmp_path)


def test_a_name_that_is_missing(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.format("~"))
    with pytest.raises(ConfigError, match="config.yaml: no key vocab_filename"):
        read_config(tmp_path)
