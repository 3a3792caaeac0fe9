"""Signs to bits and back; the storage format byte by byte, since files rely on it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cress_svcd.kernels import packed_layout


def random_signs(out_features: int, in_features: int) -> torch.Tensor:
    return torch.where(torch.rand(out_features, in_features) < 0.5, -1.0, 1.0)


def test_the_storage_format():
    """Row-major, the first input in the lowest bit, rows padded with zero bits."""
    signs = -torch.ones(2, 11)
    signs[0, 0] = signs[0, 9] = signs[1, 7] = 1
    expected = torch.tensor([[0b00000001, 0b00000010], [0b10000000, 0]], dtype=torch.uint8)
    assert torch.equal(packed_layout.pack_signs(signs), expected)
    assert torch.equal(packed_layout.pack_signs(signs > 0), expected)


def test_the_layout_of_tiles():
    """Output 17, input 64 + 32 + 4 * 5 + 2: second tiles, second half, word 1, byte 2, bit 5."""
    signs = -torch.ones(20, 128)
    signs[17, 64 + 32 + 22] = 1
    tiles = packed_layout.to_tiles(packed_layout.pack_signs(signs), 128)
    assert tiles.shape == (2, 2, 128) == packed_layout.tile_shape(20, 128)
    assert tiles[1, 1, 64 + 4 * 1 + 2] == 1 << 5 and tiles.sum() == 1 << 5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.sampled_from(["float32", "float16", "int8"]))
def test_round_trips(out_features, in_features, dtype):
    signs = random_signs(out_features, in_features).to(getattr(torch, dtype))
    rows = packed_layout.pack_signs(signs)
    assert rows.shape == (out_features, packed_layout.row_bytes(in_features))
    assert torch.equal(packed_layout.unpack_signs(rows, in_features, signs.dtype), signs)
    tiles = packed_layout.to_tiles(rows, in_features)
    assert tiles.shape == packed_layout.tile_shape(out_features, in_features)
    assert torch.equal(packed_layout.from_tiles(tiles, out_features, in_features), rows)


@pytest.mark.parametrize("value", [0.0, 0.5, float("nan"), 2.0])
def test_what_is_no_sign_is_refused(value):
    signs = random_signs(3, 4)
    signs[1, 2] = value
    with pytest.raises(ValueError, match="neither -1 nor"):
        packed_layout.pack_signs(signs)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="3 dimensions"):
        packed_layout.pack_signs(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="2 bytes for 9 inputs"):
        packed_layout.unpack_signs(torch.zeros(4, 3, dtype=torch.uint8), 9)
