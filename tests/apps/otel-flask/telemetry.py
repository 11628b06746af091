"""OpenTelemetry as its documentation sets it up for Flask: traces and metrics, sent in batches every 5 s.

TELEMETRY says what becomes of them:
  off   (default) nothing is imported: the application alone
  drop  everything is made and batched, and handed to an exporter that throws it away: what instrumentation costs at
        least, without any serialising or sending
  otlp  sent as protobuf over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT, as a user would
"""

import os

MODE = os.environ.get("TELEMETRY", "off")
EVERY_MS = 5_000

# What was handed to the exporters so far, in this process.
seen = {"mode": MODE, "pid": os.getpid(), "spans": 0, "metric_points": 0, "failures": 0}


def instrument(app):
    """Instruments the application; call it in the process that serves, for it starts threads."""
    if MODE == "off":
        return
    if MODE not in ("drop", "otlp"):
        raise ValueError(f"TELEMETRY={MODE}: want off, drop or otlp")

    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        MetricExporter,
        MetricExportResult,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Spans(SpanExporter):
        """Counts what passes and gives it to the exporter, if there is one."""

        def __init__(self):
            self.onward = OTLPSpanExporter() if MODE == "otlp" else None

        def export(self, spans):
            seen["spans"] += len(spans)
            result = self.onward.export(spans) if self.onward else SpanExportResult.SUCCESS
            seen["failures"] += result is not SpanExportResult.SUCCESS
            return result

        def shutdown(self):
            if self.onward:
                self.onward.shutdown()

    class Points(MetricExporter):
        """The same for metrics."""

        def __init__(self):
            super().__init__()
            self.onward = OTLPMetricExporter() if MODE == "otlp" else None

        def export(self, metrics_data, timeout_millis=10_000, **kwargs):
            for resource in metrics_data.resource_metrics:
                for scope in resource.scope_metrics:
                    seen["metric_points"] += sum(len(metric.data.data_points) for metric in scope.metrics)
            if not self.onward:
                return MetricExportResult.SUCCESS
            result = self.onward.export(metrics_data, timeout_millis, **kwargs)
            seen["failures"] += result is not MetricExportResult.SUCCESS
            return result

        def force_flush(self, timeout_millis=10_000):
            return self.onward.force_flush(timeout_millis) if self.onward else True

        def shutdown(self, timeout_millis=30_000, **kwargs):
            if self.onward:
                self.onward.shutdown(timeout_millis, **kwargs)

    resource = Resource({SERVICE_NAME: "otel-flask"})
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(
        BatchSpanProcessor(Spans(), schedule_delay_millis=EVERY_MS, max_queue_size=1 << 16)
    )
    trace.set_tracer_provider(tracing)
    reader = PeriodicExportingMetricReader(Points(), export_interval_millis=EVERY_MS)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[reader]))
    FlaskInstrumentor().instrument_app(app)
