"""fairseq drops what does not fill a multiple of eight; a test set must come out whole."""

import pytest


@pytest.mark.parametrize("options", [[], ["--text-input"]], ids=["speech", "text"])
def test_every_sentence_of_a_set_is_in_a_batch(prepared, options, request):
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.tasks import setup_task

    parser = fairseq_options.get_generation_parser()
    arguments = [str(prepared), "--task", "speech_and_text_translation", "--path", "x", *options]
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, arguments))
    task = setup_task(cfg.task)
    task.load_dataset("tst-COMMON")
    dataset = task.dataset("tst-COMMON")
    assert len(dataset) % 8
    batches = task.get_batch_iterator(
        dataset, max_tokens=12_000, required_batch_size_multiple=8
    ).next_epoch_itr(shuffle=False)
    seen = sorted(index for batch in batches for index in batch["id"].tolist())
    assert seen == list(range(len(dataset)))
