"""HuBERT checkpoints: their description, and files that are damaged or malicious."""

import json
import pickle

import pytest
import torch

from cress_svcd.errors import CheckpointError
from cress_svcd.models.hubert_checkpoint import HubertDescription, parse_conv_layers, read_hubert
from tests.helpers.hubert_files import make_hubert


def test_the_description_survives_json(tmp_path):
    make_hubert(tmp_path / "hubert.pt")
    description, _ = read_hubert(tmp_path / "hubert.pt")
    assert HubertDescription.from_json(description.to_json()) == description
    assert json.loads(description.to_json())["normalize"] is False


@pytest.mark.parametrize(
    "text, layers",
    [
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", 7),
        ("[(8, 10, 5), (8, 8, 4)]", 2),
    ],
)
def test_conv_layers_are_read_as_released(text, layers):
    assert len(parse_conv_layers(text)) == layers


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[(1,2)]",
        "[(1,2,3)",
        "3",
        "[]",
        "[(1,2,-3)]",
        "[(1,2,'x')]",
    ],
)
def test_conv_layers_are_never_executed(text, tmp_path):
    with pytest.raises(CheckpointError, match="conv_feature_layers"):
        parse_conv_layers(text)


class TestDamagedFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match="nowhere.pt"):
            read_hubert(tmp_path / "nowhere.pt")

    def test_truncated(self, tmp_path):
        path = tmp_path / "hubert.pt"
        make_hubert(path)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(CheckpointError, match="truncated"):
            read_hubert(path)

    def test_of_another_model(self, tmp_path):
        path = tmp_path / "hubert.pt"
        make_hubert(path, {"_name": "wav2vec2"})
        with pytest.raises(CheckpointError, match="'wav2vec2', expected 'hubert'"):
            read_hubert(path)

    def test_without_a_config(self, tmp_path):
        torch.save({"weights": {}}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="weights"):
            read_hubert(tmp_path / "x.pt")

    def test_a_malicious_pickle_is_refused_and_not_executed(self, tmp_path):
        marker = tmp_path / "executed"

        class Malicious:
            def __reduce__(self):
                return (open, (str(marker), "w"))

        path = tmp_path / "evil.pt"
        torch.save({"cfg": {}, "model": Malicious()}, path)
        with pytest.raises(CheckpointError, match="refused"):
            read_hubert(path)
        path.write_bytes(pickle.dumps(Malicious()))
        with pytest.raises(CheckpointError, match="refused|cannot be read"):
            read_hubert(path)
        assert not marker.exists()
