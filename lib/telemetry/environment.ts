/** Which of OpenTelemetry's signals are asked for, by its standard variables. */
import { Fatal } from "../errors.ts";

export interface Signals {
  metrics: boolean;
  traces: boolean;
  /** Between two exports of metrics, in milliseconds; undefined: the SDK's default, a minute. */
  intervalMs: number | undefined;
  /** A protocol that is asked for, and that this program does not speak. */
  otherProtocol: string | undefined;
}

/** @throws {Fatal} where a variable is wrong */
export function readSignals(env: (name: string) => string | undefined): Signals {
  const off = env("OTEL_SDK_DISABLED")?.trim().toLowerCase() === "true";
  const wanted = (signal: string) =>
    !off && (env(`OTEL_${signal}_EXPORTER`) ?? "otlp").split(",").some((name) => name.trim() === "otlp") &&
    Boolean(env("OTEL_EXPORTER_OTLP_ENDPOINT") || env(`OTEL_EXPORTER_OTLP_${signal}_ENDPOINT`));
  for (const name of ENDPOINTS) checkUrl(name, env(name));
  const protocol = env("OTEL_EXPORTER_OTLP_PROTOCOL")?.trim();
  return {
    metrics: wanted("METRICS"),
    traces: wanted("TRACES"),
    intervalMs: readInterval(env("OTEL_METRIC_EXPORT_INTERVAL")),
    otherProtocol: protocol && protocol !== "http/protobuf" ? protocol : undefined,
  };
}

const ENDPOINTS = ["", "_METRICS", "_TRACES"].map((signal) => `OTEL_EXPORTER_OTLP${signal}_ENDPOINT`);

/** The value is not quoted: it can hold a password. */
function checkUrl(name: string, value: string | undefined): void {
  if (!value || /^https?:$/.test(URL.parse(value)?.protocol ?? "")) return;
  throw new Fatal("configuration", `Cannot read '${name}': wanted a URL such as 'http://collector:4318'`);
}

function readInterval(value: string | undefined): number | undefined {
  if (!value) return undefined;
  if (!/^[1-9]\d{0,9}$/.test(value)) {
    throw new Fatal(
      "configuration",
      `Cannot read 'OTEL_METRIC_EXPORT_INTERVAL': wanted milliseconds, got '${value}'`,
    );
  }
  return Number(value);
}
