/** `start`: from a configuration to a running stream. */
import manifest from "../deno.json" with { type: "json" };
import type { Config } from "./config.ts";
import { postgresOptions } from "./connect.ts";
import { Hangups } from "./lifecycle.ts";
import type { Log } from "./log.ts";
import { openStream } from "./open.ts";
import { type Pages, servePages } from "./pages.ts";
import { reloader } from "./reload.ts";
import { runStream } from "./run.ts";
import { StatusReader, statusTarget } from "./status.ts";
import { openTelemetry } from "./telemetry/open.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import { alive, ready } from "./telemetry/vitals.ts";
import { Troubles } from "./troubles.ts";

/**
 * Runs until `signal` aborts.
 * @param reread what is configured by now; without it SIGHUP ends the program
 * @throws {Fatal} with an exit code where it cannot begin
 */
export async function start(
  config: Config,
  log: Log,
  signal: AbortSignal,
  reread?: () => Config,
): Promise<void> {
  await using opened = new AsyncDisposableStack();
  const hangups = reread && opened.use(new Hangups());
  const troubles = new Troubles(log);
  const postgres = postgresOptions(config, troubles);
  const { telemetry, page } = opened.use(
    await openTelemetry({
      stream: config.stream,
      version: manifest.version,
      freshTimeoutMs: config.freshTimeoutMs,
      postgres,
      log,
      troubles,
      listens: config.listen !== undefined,
    }),
  );
  signal.addEventListener("abort", () => telemetry.vitals.stops(), { once: true });
  if (config.listen) {
    const reader = opened.use(new StatusReader(statusTarget(config)));
    opened.use(servePages(config.listen, pages(config, telemetry, page!, reader), log));
  }
  const stream = await openStream(config, { log, troubles, telemetry, postgres }, opened);
  hangups?.each(reloader(stream, config, reread!));
  await runStream(stream, signal);
}

function pages(
  config: Config,
  { vitals }: Telemetry,
  metrics: () => Promise<string>,
  reader: StatusReader,
): Pages {
  let reading: ReturnType<StatusReader["read"]> | undefined;
  return {
    metrics,
    healthz: () => alive(vitals),
    readyz: () => ready(vitals, config.freshTimeoutMs),
    // who asks meanwhile gets the same answer
    status: () => reading ??= reader.read().finally(() => reading = undefined),
  };
}
