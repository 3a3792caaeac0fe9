"""fairseq learning-rate schedulers: importing registers them."""

from cress_svcd.schedulers import warmup  # noqa: F401
