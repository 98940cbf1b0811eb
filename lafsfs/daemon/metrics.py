"""A mount's status in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

Answer = dict[str, Any]
_PENDING = {
    "files": "files whose content or place is not on the grid yet",
    "directories": "directories with changes that are not on the grid yet",
    "bytes": "bytes that are not on the grid yet",
}


def exposition(answers: Iterable[Answer]) -> str:
    """All numbers of these mounts (answers to "status"), labelled with the mountpoint."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"lafsfs_{name}", text, ("mountpoint", *labels), registry=registry)

    pending = {kind: gauge(f"pending_{kind}", text) for kind, text in _PENDING.items()}
    cache = gauge("cache_bytes", "disk space the cache takes")
    limit = gauge("cache_limit_bytes", "disk space the cache may take")
    since = gauge("mounted_timestamp_seconds", "when the tree was mounted")
    errors = gauge("recent_errors", "errors that lafsfs status lists")
    conflicts = gauge("conflicts", "copies kept because two writers changed the same name")
    finished = gauge("leases_renewed_timestamp_seconds", "when the leases of everything were renewed last")
    lost = gauge("leases_lost", "objects of which no server had a share then")
    reachable = gauge("server_reachable", "whether the server answered last time", "server")
    latency = gauge("server_latency_seconds", "time of a small request (moving average)", "server")
    for answer in answers:
        where = answer["mountpoint"].encode("utf-8", "backslashreplace").decode("utf-8")
        for kind, measure in pending.items():
            measure.labels(where).set(answer["pending"][kind])
        cache.labels(where).set(answer["cache"]["bytes"])
        limit.labels(where).set(answer["cache"]["limit"])
        since.labels(where).set(answer["since"])
        errors.labels(where).set(len(answer["errors"]))
        conflicts.labels(where).set(len(answer["conflicts"]))
        lost.labels(where).set(answer["leases"]["last"]["lost"])
        if answer["leases"]["finished"] is not None:
            finished.labels(where).set(answer["leases"]["finished"])
        for server in answer["servers"]:
            if server["reachable"] is not None:
                reachable.labels(where, server["name"]).set(server["reachable"])
            if server["latency"] is not None:
                latency.labels(where, server["name"]).set(server["latency"])
    return generate_latest(registry).decode("utf-8")
