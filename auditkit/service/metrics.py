"""What the service counts, for Prometheus: requests and gaps of groups, never people."""

from __future__ import annotations

from typing import Any

from auditkit._extras import import_extra
from auditkit.streaming import StreamReport

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ServiceMetrics:
    """The counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        client: Any = import_extra("prometheus_client")
        self._render = client.generate_latest
        self.content_type = str(client.CONTENT_TYPE_LATEST)
        self.registry = client.CollectorRegistry()
        options = {"registry": self.registry}
        self.requests = client.Counter(
            "auditkit_requests", "Requests by path and status.", ["path", "status"], **options
        )
        self.rejects = client.Counter(
            "auditkit_rejects", "Requests that were refused, by reason.", ["reason"], **options
        )
        self.rows = client.Counter("auditkit_rows", "Rows released.", **options)
        self.replays = client.Counter("auditkit_replays", "Requests answered from the ledger.", **options)
        self.seconds = client.Histogram(
            "auditkit_request_seconds", "Time from the request to its answer.", ["path"], buckets=BUCKETS, **options
        )
        self.waiting = client.Gauge("auditkit_waiting", "Requests that wait for the store.", **options)
        self.excess = client.Gauge(
            "auditkit_pooled_excess", "Pooled gap less the tolerance, largest of a criterion.", ["criterion"], **options
        )
        self.violation = client.Gauge("auditkit_weighted_violation", "Weighted-average violation.", **options)
        self.relaxation = client.Gauge("auditkit_relaxation", "What conflicting tolerances were widened by.", **options)
        self.alarms = client.Gauge("auditkit_alarms", "Bounds that are crossed now, by kind.", ["kind"], **options)

    def take(self, report: StreamReport, waiting: int) -> None:
        """Show the figures of a report."""
        worst: dict[str, float] = {}
        for gap in report.gaps:
            if gap.gap is not None:
                worst[gap.criterion] = max(worst.get(gap.criterion, -gap.tolerance), abs(gap.gap) - gap.tolerance)
        for criterion, value in worst.items():
            self.excess.labels(criterion).set(value)
        self.violation.set(report.weighted_violation or 0.0)
        self.relaxation.set(report.relaxation)
        self.waiting.set(waiting)
        for kind in ("pooled", "population", "conflict"):
            self.alarms.labels(kind).set(sum(alarm.kind == kind for alarm in report.alarms))

    def render(self) -> bytes:
        """Everything as text."""
        return self._render(self.registry)
