/** What the page is told of the stream: a status, the newest events, and what this instance knows of itself. */
import type { Status } from "../core/status.ts";
import { detailWithoutKeys } from "../core/hide.ts";
import { type AuditEvent, type View, viewOf } from "../core/view.ts";
import { within } from "../lifecycle.ts";
import { type PostgresOptions, Session } from "../postgres/client.ts";
import { newestEvents } from "../postgres/recent.ts";
import { ready, type Vitals } from "../telemetry/vitals.ts";
import type { Source } from "./feed.ts";
import type { Recorder } from "./recorder.ts";

export interface Looked {
  program: Pick<View, "code" | "version" | "stream">;
  status: () => Promise<Status>;
  vitals: Vitals;
  freshTimeoutMs: () => number;
  /** Whose login SIGHUP changes. */
  postgres: PostgresOptions;
  /** Whether keys are shown. */
  keys: boolean;
}

/** A server that hangs does not hold up what else there is to tell. */
const PATIENCE_MS = 1_500;
const EVENTS = 12;
/** Statements of the page are short; one that takes longer is given up. */
export const PAGE_STATEMENT_SECONDS = 2;

export class Look implements Source {
  readonly #looked: Looked;
  readonly #recorder: Recorder;
  #last: { status: Status; at: number } | undefined;
  #events: AuditEvent[] = [];
  #asking: Promise<void> | undefined;
  #session: Session | undefined;

  constructor(looked: Looked, recorder: Recorder) {
    this.#looked = looked;
    this.#recorder = recorder;
  }

  /** With the last answers, where new ones take long. */
  async look(): Promise<View> {
    this.#asking ??= this.#ask().finally(() => this.#asking = undefined);
    await within(PATIENCE_MS, this.#asking).catch(() => {});
    const { program, vitals, freshTimeoutMs } = this.#looked;
    const { role, at, scan } = vitals;
    const own = { role, ready: ready(vitals, freshTimeoutMs()), state: at?.state ?? null, scan };
    const last = this.#last &&
      { status: this.#last.status, age: (performance.now() - this.#last.at) / 1_000 };
    return viewOf(program, own, last, this.#events);
  }

  async #ask(): Promise<void> {
    const at = performance.now();
    const [status, events] = await Promise.all([this.#looked.status(), this.#newestEvents()]);
    this.#last = { status, at };
    if (events) this.#events = events;
    const report = status.postgres.report;
    if (report) {
      this.#recorder.know({ at, lag: report.stream?.fresh_age ?? null, waiting: report.wal.pending });
    }
  }

  /** undefined: PostgreSQL does not tell, and the status says why. */
  async #newestEvents(): Promise<AuditEvent[] | undefined> {
    try {
      const session = this.#session ??= await openPageSession(this.#looked.postgres);
      const events = await newestEvents(session, EVENTS);
      return this.#looked.keys ? events : events.map((event) => ({
        ...event,
        key: null,
        detail: detailWithoutKeys(event.detail),
      }));
    } catch {
      await this.rest();
      return undefined;
    }
  }

  async rest(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.[Symbol.asyncDispose]();
  }
}

export function openPageSession(postgres: PostgresOptions): Promise<Session> {
  return Session.open({
    ...postgres,
    applicationName: `${postgres.applicationName} page`.slice(0, 63),
    statementSeconds: PAGE_STATEMENT_SECONDS,
    blocked: undefined,
  });
}
