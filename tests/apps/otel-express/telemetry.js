'use strict';
// OpenTelemetry as its documentation sets it up for Express: traces and metrics of node:http and Express, sent in
// batches every 5 s. Loaded before the application: node --require ./telemetry.js app.js
//
// TELEMETRY says what becomes of them:
//   off   (default) nothing is loaded: the application alone
//   drop  everything is made and batched, and handed to an exporter that throws it away: what instrumentation costs
//         at least, without any serialising or sending
//   otlp  sent as protobuf over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT, as a user would

const seen = { mode: process.env.TELEMETRY ?? 'off', spans: 0, metricPoints: 0, failures: 0 };

const EVERY_MS = 5_000;

// Counts what passes and gives it to the exporter, if there is one.
function counting(exporter, count) {
  return {
    export(items, done) {
      count(items);
      if (!exporter) {
        done({ code: 0 });
        return;
      }
      exporter.export(items, (result) => {
        if (result.code !== 0) seen.failures += 1;
        done(result);
      });
    },
    selectAggregationTemporality: exporter?.selectAggregationTemporality?.bind(exporter),
    selectAggregation: exporter?.selectAggregation?.bind(exporter),
    forceFlush: async () => exporter?.forceFlush?.(),
    shutdown: async () => exporter?.shutdown(),
  };
}

function pointsOf({ scopeMetrics }) {
  return scopeMetrics.flatMap(({ metrics }) => metrics).reduce((sum, { dataPoints }) => sum + dataPoints.length, 0);
}

function start(otlp) {
  const { NodeSDK, metrics, tracing } = require('@opentelemetry/sdk-node');
  const { HttpInstrumentation } = require('@opentelemetry/instrumentation-http');
  const { ExpressInstrumentation } = require('@opentelemetry/instrumentation-express');
  const { OTLPTraceExporter } = require('@opentelemetry/exporter-trace-otlp-proto');
  const { OTLPMetricExporter } = require('@opentelemetry/exporter-metrics-otlp-proto');

  const traces = counting(otlp && new OTLPTraceExporter(), (spans) => (seen.spans += spans.length));
  const points = counting(otlp && new OTLPMetricExporter(), (resource) => (seen.metricPoints += pointsOf(resource)));
  const sdk = new NodeSDK({
    serviceName: 'otel-express',
    // No detectors: some of them ask for a cloud's metadata service over the network.
    autoDetectResources: false,
    spanProcessors: [new tracing.BatchSpanProcessor(traces, { scheduledDelayMillis: EVERY_MS, maxQueueSize: 1 << 16 })],
    metricReaders: [
      new metrics.PeriodicExportingMetricReader({ exporter: points, exportIntervalMillis: EVERY_MS }),
    ],
    instrumentations: [new HttpInstrumentation(), new ExpressInstrumentation()],
  });
  sdk.start();
  process.once('SIGTERM', () => sdk.shutdown().finally(() => process.exit(0)));
}

if (seen.mode === 'drop' || seen.mode === 'otlp') {
  start(seen.mode === 'otlp');
} else if (seen.mode !== 'off') {
  throw new Error(`TELEMETRY=${seen.mode}: want off, drop or otlp`);
}

module.exports = { seen };
