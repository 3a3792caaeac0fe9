"""How the benchmarks of training train: fairseq's options of the recipes' stage st."""

from pathlib import Path

OPTIONS = {
    "--task": "speech_and_text_translation",
    "--criterion": "speech_and_text_translation",
    "--label-smoothing": "0.1",
    "--tgt-lang": "de",
    "--train-subset": "train",
    "--optimizer": "adam",
    "--lr": "1e-5",
    "--lr-scheduler": "fixed",
    "--clip-norm": "1",
    "--fp16-init-scale": "4",
    "--seed": "1",
}


def training_options(folder: Path, precision: str, device: str) -> list[str]:
    """Data and options that all trainings share; architecture and sizes of batches are to follow.

    Args:
        folder: prepared data.
        precision: fp32, fp16 or bf16.
        device: cuda or cpu.
    """
    options = [str(folder), "--st-training", "--mt-finetune"]
    for name, value in OPTIONS.items():
        options += [name, value]
    if precision != "fp32":
        options.append(f"--{precision}")
    if device == "cpu":
        options.append("--cpu")
    return options
