"""What a server counts, in Prometheus' text."""

from collections.abc import Callable

from cress_svcd.serving.web import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """Counters, which grow; what there is now is asked for when somebody looks (``show``)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cress_svcd_requests",
            "Answered requests, by path and status.",
            ("path", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "cress_svcd_translation_seconds",
            "Time from a request for a translation to the end of its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.speech = self._counter("translated_speech_seconds", "Speech that was translated.")
        self.batches = self._counter("batches", "Batches that were translated.")
        self.gone = self._counter("hang_ups", "Clients that left before their answer.")

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"cress_svcd_{name}", help, registry=self.registry)

    def show(self, name: str, help: str, now: Callable[[], float]) -> None:
        """A gauge whose value ``now`` returns."""
        Gauge(f"cress_svcd_{name}", help, registry=self.registry).set_function(now)

    def text(self) -> bytes:
        return generate_latest(self.registry)
