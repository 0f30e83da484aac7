/** Metrics and spans by OTLP (http/protobuf). The packages read the standard variables, but for those of a whole SDK. */
import { OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-proto";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics";
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";
import type { Resource } from "@opentelemetry/resources";
import { sentence } from "../errors.ts";
import type { Troubles } from "../troubles.ts";
import { forgetting } from "./temporality.ts";

export function otlpMetrics(
  intervalMs: number | undefined,
  troubles: Troubles,
): PeriodicExportingMetricReader {
  const exporter = new OTLPMetricExporter();
  exporter.selectAggregationTemporality = forgetting(exporter.selectAggregationTemporality.bind(exporter));
  return new PeriodicExportingMetricReader({
    exporter: telling(exporter, "metrics", troubles),
    ...(intervalMs !== undefined && { exportIntervalMillis: intervalMs }),
  });
}

export function otlpTraces(resource: Resource, troubles: Troubles): BasicTracerProvider {
  const exporter = new OTLPTraceExporter();
  return new BasicTracerProvider({
    resource,
    spanProcessors: [new BatchSpanProcessor(telling(exporter, "traces", troubles))],
  });
}

type Done = (result: { code: number; error?: Error }) => void;

/** A collector that does not answer is a trouble, told once an episode; the work goes on without it. */
function telling<Items, E extends { export(items: Items, done: Done): void }>(
  exporter: E,
  what: string,
  troubles: Troubles,
): E {
  const send = exporter.export.bind(exporter);
  exporter.export = (items, done) =>
    send(items, (result) => {
      if (result.code === 0) troubles.over(`otlp-${what}`, `the collector takes ${what} again`);
      else {
        troubles.tell(
          `otlp-${what}`,
          { code: "EPS-719", error: sentence(result.error) },
          `the collector does not take ${what}; trying on`,
        );
      }
      done(result);
    });
  return exporter;
}
