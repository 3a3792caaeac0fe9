"""Parts of files that libsndfile decodes."""

import gc

import pytest

from cress_svcd.data.audio_views import Sound


def test_what_cannot_be_opened_leaves_nothing_behind(tmp_path, monkeypatch):
    """Nor a word of Python's about an object that was made by half."""
    heard = []
    monkeypatch.setattr("sys.unraisablehook", heard.append)
    with pytest.raises(FileNotFoundError):
        Sound(str(tmp_path / "none.wav"), [(0, 10)])
    gc.collect()
    assert heard == []
