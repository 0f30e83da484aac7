/** Looks at the stream in PostgreSQL when somebody asks, on a session of its own that is opened then. */
import { sentence } from "../errors.ts";
import { within } from "../lifecycle.ts";
import type { Log } from "../log.ts";
import type { PostgresOptions, Session } from "../postgres/client.ts";
import { type Observation, observe, openObserver } from "../postgres/observe.ts";

/** Not more often, however many ask. */
const EVERY_MS = 1_000;
/** Whoever asks gets the last answer by then. */
const PATIENCE_MS = 2_000;
/** A statement that takes longer is given up. */
const STATEMENT_SECONDS = 5;
/** A connection that is being made does not hold up a stop. */
const CLOSE_MS = 500;

export class Observer implements AsyncDisposable {
  readonly #postgres: PostgresOptions;
  readonly #log: Log;
  #session: Session | undefined;
  #last: { observation: Observation; at: number } | undefined;
  #answered = false;
  #askedAt = -Infinity;
  #asking: Promise<void> | undefined;

  constructor(postgres: PostgresOptions, log: Log) {
    this.#postgres = postgres;
    this.#log = log;
  }

  /** Whether PostgreSQL answered the last question. */
  get answered(): boolean {
    return this.#answered;
  }

  /** undefined: there was never an answer. */
  async look(): Promise<Observation | undefined> {
    if (performance.now() - this.#askedAt >= EVERY_MS) {
      this.#asking ??= this.#ask().finally(() => this.#asking = undefined);
    }
    // an answer that is late is no answer, until it comes
    if (this.#asking) await within(PATIENCE_MS, this.#asking).catch(() => this.#answered = false);
    if (!this.#last) return undefined;
    const { observation, at } = this.#last;
    const since = (performance.now() - at) / 1_000;
    return {
      ...observation,
      // they grow also where PostgreSQL does not answer
      freshAge: observation.freshAge === null ? null : observation.freshAge + since,
      oldestAge: observation.transactions === 0 ? 0 : observation.oldestAge + since,
    };
  }

  async #ask(): Promise<void> {
    this.#askedAt = performance.now();
    try {
      this.#session ??= await openObserver({
        ...this.#postgres, // whose login SIGHUP changes
        statementSeconds: STATEMENT_SECONDS,
        blocked: undefined,
      });
      const at = performance.now();
      this.#last = { observation: await observe(this.#session), at };
      this.#answered = true;
    } catch (error) {
      this.#answered = false;
      this.#log.debug({ error: sentence(error) }, "PostgreSQL does not tell metrics");
      const broken = this.#session;
      this.#session = undefined;
      await broken?.[Symbol.asyncDispose]();
    }
  }

  /** Cuts off a question that hangs. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#askedAt = Infinity;
    this.#session?.abandon(new Error("closed"));
    if (this.#asking) await within(CLOSE_MS, this.#asking).catch(() => {});
    await this.#session?.[Symbol.asyncDispose]();
  }
}
