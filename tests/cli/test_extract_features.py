"""extract-features: training from its output is training from audio."""

import numpy as np
import torch
import yaml
from hubert_files import make_hubert

from cress_svcd.cli.main import main
from cress_svcd.data.audio import read_audio
from cress_svcd.data.feature_cache import FeatureCache
from cress_svcd.data.manifest import read_manifest
from cress_svcd.models.hubert_encoder import HubertEncoder, read_hubert

TRAIN = """--user-dir cress_svcd --task speech_and_text_translation --max-tokens 200000
--criterion speech_and_text_translation --arch hubert_transformer --optimizer adam --lr 0.001
--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16
--encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 --encoder-attention-heads 2
--decoder-attention-heads 2 --conv-channels 16 --dropout 0 --hubert-dropout 0 --max-update 3
--valid-subset dev --st-training --mt-finetune --freeze-hubert --log-format json --log-interval 1
--no-save""".split()


def test_features_are_the_encoders(prepared, hubert, tmp_path, capsys):
    command = ["extract-features", str(prepared), "--hubert-model-path", str(hubert), "-o"]
    command += [str(tmp_path), "--splits", "dev", "--workers", "0"]
    assert main(command) == 0
    frame = read_manifest(prepared / "dev.tsv")
    cache = FeatureCache(tmp_path, "dev", frame)
    description, state = read_hubert(hubert)
    encoder = HubertEncoder(description, frozen=True)
    encoder.load_pretrained(state, hubert)
    root = yaml.safe_load((prepared / "config.yaml").read_text())["audio_root"]
    for index in (0, len(frame) - 1):
        wave = torch.from_numpy(read_audio(frame["audio"][index], root=root)).unsqueeze(0)
        features, _ = encoder(wave, torch.tensor([wave.size(1)]))
        np.testing.assert_allclose(cache[index], features[0].numpy(), rtol=1e-3, atol=1e-3)
    capsys.readouterr()
    assert main(command) == 0
    assert "up to date" in capsys.readouterr().out


def logged_losses(output: str) -> list[float]:
    lines = [line for line in output.split("\n") if "| train_inner |" in line]
    return [float(line.split('"st_loss": "')[1].split('"')[0]) for line in lines]


def test_training_from_features_equals_training_from_audio(prepared, hubert, tmp_path, run):
    run("cress-svcd", "extract-features", prepared, "--hubert-model-path", hubert, "-o", tmp_path)
    common = ["fairseq-train", prepared, "--hubert-model-path", hubert, *TRAIN]
    from_audio = run(*common)
    from_features = run(*common, "--feature-cache", tmp_path)
    expected = logged_losses(from_audio.stdout + from_audio.stderr)
    losses = logged_losses(from_features.stdout + from_features.stderr)
    assert len(losses) == 3
    np.testing.assert_allclose(losses, expected, atol=0.01)


def test_another_encoder_or_a_trained_one_is_refused(prepared, hubert, tmp_path, run):
    run("cress-svcd", "extract-features", prepared, "--hubert-model-path", hubert, "-o", tmp_path)
    other = tmp_path / "other.pt"
    make_hubert(other, {"encoder_ffn_embed_dim": 32})
    cache = ["--feature-cache", tmp_path]
    failed = run("fairseq-train", prepared, "--hubert-model-path", other, *TRAIN, *cache, check=False)
    assert failed.returncode and "of another encoder" in failed.stderr + failed.stdout
    thawed = [option for option in TRAIN if option != "--freeze-hubert"]
    failed = run("fairseq-train", prepared, "--hubert-model-path", hubert, *thawed, *cache, check=False)
    assert failed.returncode and "--freeze-hubert" in failed.stderr + failed.stdout
