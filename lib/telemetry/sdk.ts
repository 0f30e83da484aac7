/**
 * OpenTelemetry's SDK, for `start` alone and only where somebody listens: it is imported then. The providers are not
 * registered as the API's global ones, so Deno's own integration (OTEL_DENO) can be on beside it.
 */
import {
  detectResources,
  envDetector,
  type Resource,
  resourceFromAttributes,
} from "@opentelemetry/resources";
import { MeterProvider } from "@opentelemetry/sdk-metrics";
import { ProxyTracerProvider } from "@opentelemetry/api";
import { within } from "../lifecycle.ts";
import type { Troubles } from "../troubles.ts";
import type { Signals } from "./environment.ts";
import { PrometheusReader } from "./prometheus.ts";
import type { Exporters } from "./telemetry.ts";

const NAME = "etcd-pg-sync";
/** What is left is sent at the end; a collector that does not answer does not hold up a stop. */
const FLUSH_MS = 1_000;

export interface Sdk extends Exporters, AsyncDisposable {
  prometheus: PrometheusReader;
}

export async function openSdk(version: string, signals: Signals, troubles: Troubles): Promise<Sdk> {
  const resource = describe(version);
  const prometheus = new PrometheusReader();
  const otlp = signals.metrics || signals.traces ? await import("./otlp.ts") : undefined;
  const metrics = new MeterProvider({
    resource,
    readers: [prometheus, ...signals.metrics ? [otlp!.otlpMetrics(signals.intervalMs, troubles)] : []],
  });
  const traces = signals.traces ? otlp!.otlpTraces(resource, troubles) : undefined;
  return {
    prometheus,
    meter: metrics.getMeter(NAME, version),
    tracer: (traces ?? new ProxyTracerProvider()).getTracer(NAME, version),
    async [Symbol.asyncDispose]() {
      const ends = [metrics.shutdown(), traces?.shutdown()];
      await within(FLUSH_MS, Promise.allSettled(ends)).catch(() => {});
    },
  };
}

/** OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count before these. */
function describe(version: string): Resource {
  const own = resourceFromAttributes({
    "service.name": NAME,
    "service.version": version,
    "service.instance.id": crypto.randomUUID(),
  });
  return own.merge(detectResources({ detectors: [envDetector] }));
}
