"""Tables that are one stand in a file once, however the checkpoint was made."""

import torch

from cress_svcd.models.ties import tie_equal


def test_equal_tables_become_one_and_others_stay():
    table = torch.randn(4, 3)
    tensors = {
        "a": table,
        "b": table.clone(),
        "c": table.t().contiguous().t(),
        "other": table + 1,
        "half": table.half(),
        "wide": table.view(3, 4),
        "ones": torch.ones(3),
        "more ones": torch.ones(3),
        "none": torch.zeros(0, 2),
        "number": torch.tensor(1.0),
    }
    tied = tie_equal(tensors)
    assert list(tied) == list(tensors)
    assert all(torch.equal(tied[name], tensors[name]) for name in tensors)
    assert tied["a"] is tied["b"] is tied["c"]
    assert len({id(tensor) for tensor in tied.values()}) == len(tensors) - 2


def test_bytes_count_rather_than_numbers():
    zeros = torch.zeros(2, 2)
    tied = tie_equal({"a": zeros, "b": -zeros, "c": zeros * torch.nan, "d": zeros * torch.nan})
    assert tied["a"] is not tied["b"] and tied["c"] is tied["d"]
