/** Metrics in Prometheus' text format, as of the time that they are asked for. */
import { PrometheusSerializer } from "@opentelemetry/exporter-prometheus";
import { MetricReader } from "@opentelemetry/sdk-metrics";
import { forgetting } from "./temporality.ts";

export class PrometheusReader extends MetricReader {
  constructor() {
    super({ aggregationTemporalitySelector: forgetting() });
  }

  readonly #serializer = new PrometheusSerializer(undefined, false, undefined, true, true);

  /** @throws {AggregateError} where a metric could not be read */
  async page(): Promise<string> {
    const { resourceMetrics, errors } = await this.collect();
    if (errors.length > 0) throw new AggregateError(errors);
    return this.#serializer.serialize(resourceMetrics);
  }

  protected override onForceFlush(): Promise<void> {
    return Promise.resolve();
  }

  protected override onShutdown(): Promise<void> {
    return Promise.resolve();
  }
}
