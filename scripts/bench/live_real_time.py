"""Live translation by a real server: recordings are sent as fast as they were spoken.

usage: python scripts/bench/live_real_time.py MODEL MANIFEST [--connections 4] [--threads 1]

Starts `cress-svcd serve MODEL` and sends the first --connections recordings of a prepared split
(MANIFEST) over its WebSocket at the same time, in blocks of 0.1 s.  BLEU and lag are those of
live_lag.py, by the clock.  Needs cress_svcd[serve,score].
"""

import argparse
import json
import logging
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from live_lag import Said, bleu, lags, pcm_of
from server_process import serving
from websockets.sync import client

from cress_svcd.data.audio import SAMPLE_RATE, read_audio
from cress_svcd.evaluation.recordings import audio_files, read_recordings

BLOCK_SECONDS = 0.1


def speak(socket: client.ClientConnection, pcm: bytes, started: float) -> None:
    size = 2 * round(BLOCK_SECONDS * SAMPLE_RATE)
    for number, first in enumerate(range(0, len(pcm), size), 1):
        time.sleep(max(0.0, started + number * BLOCK_SECONDS - time.monotonic()))
        socket.send(pcm[first : first + size])
    socket.send(json.dumps({"type": "stop"}))


def hear(address: str, path: str) -> list[Said]:
    """The words of a recording, with the times at which they were certain."""
    pcm = pcm_of(read_audio(path))
    said: list[Said] = []
    shown = 0
    with client.connect(address, max_size=None) as socket:
        socket.send(json.dumps({"type": "start"}))
        socket.recv()
        started = time.monotonic()
        speaker = threading.Thread(target=speak, args=(socket, pcm, started))
        speaker.start()
        while (message := json.loads(socket.recv()))["type"] in ("partial", "final"):
            now = time.monotonic() - started
            final = message["type"] == "final"
            words = message["text" if final else "stable"].split()
            said += [Said(word, now, now) for word in words[shown:]]
            shown = 0 if final else max(shown, len(words))
        speaker.join()
    if message["type"] != "done":
        raise SystemExit(message["error"]["message"])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a checkpoint, packed or not")
    parser.add_argument("manifest", type=Path, help="of a split whose recordings are there")
    parser.add_argument("--connections", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    recordings = read_recordings(args.manifest)[: args.connections]
    paths = audio_files(args.manifest, recordings)
    options = ["--device", "cpu", "--threads", str(args.threads)]
    with serving(str(args.model), *options) as (_, url):
        address = f"{url.replace('http', 'ws', 1)}/v1/audio/translations/live"
        with ThreadPoolExecutor(len(paths)) as pool:
            heard = list(pool.map(lambda path: hear(address, path), paths))
    parts = [lags(said, recording) for said, recording in zip(heard, recordings)]
    texts = [text for own, _, _ in parts for text in own]
    lag = statistics.fmean(value for _, _, own in parts for value in own)
    print(f"{len(paths)} connections: BLEU {bleu(texts, recordings):.2f}, lag {lag:.2f} s")


if __name__ == "__main__":
    main()
