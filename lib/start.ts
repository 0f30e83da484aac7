/** `start`: from a configuration to a running stream. */
import type { Config } from "./config.ts";
import { postgresOptions } from "./connect.ts";
import { Hangups } from "./lifecycle.ts";
import type { Status } from "./core/status.ts";
import type { Log } from "./log.ts";
import { openStream } from "./open.ts";
import { servePages } from "./pages.ts";
import { type Live, reloader } from "./reload.ts";
import { runStream } from "./run.ts";
import { StatusReader, statusTarget } from "./status.ts";
import { openTelemetry } from "./telemetry/open.ts";
import { alive, ready } from "./telemetry/vitals.ts";
import { Systemd } from "./systemd.ts";
import { Troubles } from "./troubles.ts";
import { version } from "./version.ts";

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
  const live = { config };
  const freshTimeoutMs = () => live.config.freshTimeoutMs;
  const hangups = reread && opened.use(new Hangups());
  const troubles = new Troubles(log);
  const postgres = postgresOptions(config, troubles);
  const { telemetry, page } = opened.use(
    await openTelemetry({
      stream: config.stream,
      version,
      freshTimeoutMs,
      postgres,
      log,
      troubles,
      listens: config.listen !== undefined,
    }),
  );
  signal.addEventListener("abort", () => telemetry.vitals.stops(), { once: true });
  if (config.listen) {
    const { vitals } = telemetry;
    const { stream, pageValues: keys } = config;
    const liveStatus = opened.use(new LiveStatus(live));
    const status = () => liveStatus.read();
    const { Site } = await import("./page/site.ts"); // a page that nobody can open is not loaded
    const site = opened.use(
      new Site({ stream, version, status, vitals, freshTimeoutMs, postgres, keys }),
    );
    const pages = {
      metrics: page!,
      healthz: () => alive(vitals),
      readyz: () => ready(vitals, freshTimeoutMs()),
      status,
      site: (request: Request) => site.answer(request),
      keys,
    };
    opened.use(servePages(config.listen, pages, log));
  }
  const systemd = opened.use(new Systemd(telemetry.vitals, { freshTimeoutMs, signal, log }));
  const stream = await openStream(config, { log, troubles, telemetry, postgres }, opened);
  const reload = reread && reloader(stream, live, reread);
  hangups?.each(() => systemd.during(reload!));
  await runStream(stream, signal);
}

/** The status by what is in force: after SIGHUP by a new reader, with the new login. */
class LiveStatus implements AsyncDisposable {
  readonly #live: Live;
  #config: Config;
  #reader: StatusReader;
  #reading: Promise<Status> | undefined;

  constructor(live: Live) {
    this.#live = live;
    this.#config = live.config;
    this.#reader = readerOf(live.config);
  }

  /** Who asks meanwhile gets the same answer. */
  read(): Promise<Status> {
    return this.#reading ??= this.#read().finally(() => this.#reading = undefined);
  }

  async #read(): Promise<Status> {
    if (this.#config !== this.#live.config) {
      await this.#reader[Symbol.asyncDispose]();
      this.#config = this.#live.config;
      this.#reader = readerOf(this.#config);
    }
    return await this.#reader.read();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reader[Symbol.asyncDispose]();
  }
}

/** Whoever can open a page sees it: keys only where that is wanted. */
function readerOf(config: Config): StatusReader {
  return new StatusReader(statusTarget(config, config.pageValues));
}
