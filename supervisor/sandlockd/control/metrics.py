"""What is counted over all sandboxes, for Prometheus. Names end in the unit; `docs/operating.md` lists them."""

from __future__ import annotations

import itertools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from sandlockd.sandbox.result import LATENCY_BOUNDS_NS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from sandlockd.control.sandboxes import Sandbox

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_START_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ANSWERS = ("continued", "answered", "refused", "to_python", "vanished", "failed")


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._states = Gauge("sandlockd_sandboxes", "Sandboxes by state.", ["state"], registry=registry)
        self._starts = Counter("sandlockd_starts", "Programs that were started.", registry=registry)
        self._start_time = Histogram(
            "sandlockd_start_seconds",
            "From the request to the program's start.",
            buckets=_START_BUCKETS_S,
            registry=registry,
        )
        self._deaths = Counter(
            "sandlockd_supervisor_deaths", "Supervisors that died and were replaced.", registry=registry
        )
        self._exits = Counter(
            "sandlockd_exits", "Sandboxes that ended, by reason.", ["reason"], registry=registry
        )
        self._denials = Counter(
            "sandlockd_denials_reported",
            "Kinds of refusals that were reported, by rule.",
            ["rule"],
            registry=registry,
        )
        self._refusals = Counter("sandlockd_denials", "Refusals, of sandboxes that ended.", registry=registry)
        self._notifications = Counter(
            "sandlockd_notifications",
            "Calls that were decided, of sandboxes that ended, by call and by who answered.",
            ["call", "by"],
            registry=registry,
        )
        self._answers = Counter(
            "sandlockd_answers", "What calls came to, of sandboxes that ended.", ["answer"], registry=registry
        )
        self._copied = Counter(
            "sandlockd_copied_up_bytes",
            "Data that was copied into trees because it was changed, of sandboxes that ended.",
            registry=registry,
        )
        self._latencies = _Latencies()
        registry.register(self._latencies)
        self._requests = Counter(
            "sandlockd_api_requests",
            "Requests by route and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._request_time = Histogram(
            "sandlockd_api_request_seconds",
            "Until the answer began, but for what waits or follows.",
            ["route"],
            buckets=_START_BUCKETS_S,
            registry=registry,
        )
        self._connections = Gauge(
            "sandlockd_api_connections", "Connections that are open.", registry=registry
        )
        self._warm = Gauge("sandlockd_warm_supervisors", "Supervisors that wait for work.", registry=registry)
        # What supervisors tell is their users': no end of names of theirs.
        self._rules, self._calls, self._reasons = _Few(200), _Few(1000), _Few(20)

    def started(self, sandbox: Sandbox) -> None:
        self._starts.inc()
        record = sandbox.record
        if record.started_ns is not None:
            self._start_time.observe((record.started_ns - record.created_ns) / 1e9)

    def supervisor_died(self) -> None:
        self._deaths.inc()

    def denied(self, rule: str) -> None:
        self._denials.labels(self._rules.known(rule)).inc()

    def ended(self, status: Mapping[str, Any], latencies: Sequence[Sequence[int]] | None = None) -> None:
        self._exits.labels(self._reasons.known(status.get("reason"))).inc()
        self._refusals.inc(_number(status.get("denials")))
        if latencies is not None:
            self._latencies.add(latencies)
        usage = status.get("usage")
        if not isinstance(usage, dict):
            return
        for one in usage.get("handlers") or ():
            if isinstance(one, dict):
                by = "c" if one.get("by") == "c" else "python"
                call = self._calls.known(one.get("call"))
                self._notifications.labels(call, by).inc(_number(one.get("calls")))
        self._copied.inc(_number(usage.get("copied_up")))
        calls = usage.get("calls")
        if isinstance(calls, dict):
            for answer in _ANSWERS:
                self._answers.labels(answer).inc(_number(calls.get(answer)))

    def requested(self, route: str, method: str, status: int, took_s: float | None) -> None:
        self._requests.labels(route, method, str(status)).inc()
        if took_s is not None:
            self._request_time.labels(route).observe(took_s)

    def text(self, states: Mapping[str, int], connections: int, warm: int) -> bytes:
        for state, count in states.items():
            self._states.labels(state).set(count)
        self._connections.set(connections)
        self._warm.set(warm)
        return generate_latest(self._registry)


class _Latencies(Collector):
    """How long calls waited for their answer, as it was counted by supervisors."""

    def __init__(self) -> None:
        self._counts = {by: [0] * (len(LATENCY_BOUNDS_NS) + 1) for by in ("c", "python")}

    def add(self, counts: Sequence[Sequence[int]]) -> None:
        for kept, more in zip(self._counts.values(), counts, strict=True):
            if len(more) != len(kept) or min(more) < 0:
                return  # of another version, or a lie
            for bucket, count in enumerate(more):
                kept[bucket] += count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        name = "sandlockd_notification_seconds"
        family = HistogramMetricFamily(
            name, "From its receipt to the answer, of calls of sandboxes that ended.", labels=["by"]
        )
        bounds = [*(bound / 1e9 for bound in LATENCY_BOUNDS_NS), float("inf")]
        for by, counts in self._counts.items():
            upto = list(itertools.accumulate(counts))
            buckets = [
                (str(bound).replace("inf", "+Inf"), float(n)) for bound, n in zip(bounds, upto, strict=True)
            ]
            family.add_metric([by], buckets, sum_value=None)
        yield family


class _Few:
    """Names up to a number; those that come after are `others`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def known(self, name: object) -> str:
        text = name[:64] if isinstance(name, str) and name else "unknown"
        if text not in self._known and len(self._known) >= self._most:
            return "others"
        self._known.add(text)
        return text


def _number(value: object) -> float:
    """What is no count (negative, NaN, more than can be) would spoil all that are counted after it."""
    return value if isinstance(value, (int, float)) and 0 <= value < 1 << 63 else 0
