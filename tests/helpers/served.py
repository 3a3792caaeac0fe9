"""Watching a server by its metrics."""

import time

import httpx


def metric(url, name, **options) -> float:
    lines = httpx.get(f"{url}/metrics", **options).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"cress_svcd_{name} "))


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
