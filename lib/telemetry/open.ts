/** From a configuration to telemetry: where nobody listens, it goes nowhere. */
import type { Log } from "../log.ts";
import type { PostgresOptions } from "../postgres/client.ts";
import type { Troubles } from "../troubles.ts";
import { readSignals } from "./environment.ts";
import { Observer } from "./observer.ts";
import { Telemetry } from "./telemetry.ts";

export interface TelemetryOptions {
  stream: string;
  version: string;
  /** SIGHUP changes it. */
  freshTimeoutMs: () => number;
  postgres: PostgresOptions;
  log: Log;
  troubles: Troubles;
  /** Metrics are asked for by the page `/metrics`. */
  listens: boolean;
}

export interface OpenTelemetry extends AsyncDisposable {
  telemetry: Telemetry;
  /** Prometheus' page; undefined where it is not asked for. */
  page: (() => Promise<string>) | undefined;
}

/** @throws {Fatal} where a variable of OpenTelemetry is wrong */
export async function openTelemetry(options: TelemetryOptions): Promise<OpenTelemetry> {
  const signals = readSignals((name) => Deno.env.get(name));
  if (!options.listens && !signals.metrics && !signals.traces) {
    return {
      telemetry: new Telemetry(options.stream),
      page: undefined,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
  if (signals.otherProtocol && (signals.metrics || signals.traces)) {
    options.log.warn(
      { code: "EPS-720", protocol: signals.otherProtocol },
      "OTEL_EXPORTER_OTLP_PROTOCOL is not one that this program speaks; sending http/protobuf",
    );
  }
  return await openWithSdk(options, signals);
}

async function openWithSdk(
  options: TelemetryOptions,
  signals: ReturnType<typeof readSignals>,
): Promise<OpenTelemetry> {
  const [{ openSdk }, { addGauges }] = await Promise.all([import("./sdk.ts"), import("./gauges.ts")]);
  await using opened = new AsyncDisposableStack();
  const observer = opened.use(new Observer(options.postgres, options.log));
  const sdk = opened.use(await openSdk(options.version, signals, options.troubles));
  const telemetry = new Telemetry(options.stream, sdk);
  addGauges(sdk.meter, { ...options, vitals: telemetry.vitals, observer });
  const all = opened.move();
  return {
    telemetry,
    page: () => sdk.prometheus.page(),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}
