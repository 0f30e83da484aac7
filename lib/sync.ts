/** `sync`: runs a stream until both sides are together, once. Where another instance leads, that one brings them there. */
import type { Config } from "./config.ts";
import { postgresOptions, withBoth } from "./connect.ts";
import { Fatal, kindOf } from "./errors.ts";
import { readKey } from "./etcd/kv.ts";
import { sleep } from "./lifecycle.ts";
import type { Log } from "./log.ts";
import { isWhole } from "./machine.ts";
import { Session } from "./postgres/client.ts";
import { hasLeader } from "./postgres/state.ts";
import { type Loss, readLosses, readStanding, readWaiting, type Standing } from "./postgres/sync.ts";
import { openStream } from "./open.ts";
import { runStream } from "./run.ts";
import { Telemetry } from "./telemetry/telemetry.ts";
import { Troubles } from "./troubles.ts";
import { prefixRange, type Stream } from "./stream.ts";
import { type Verdict, verify } from "./verify.ts";

export interface Synced {
  /** Another instance led when this began. */
  led: boolean;
  /** The checkpoint that was reached. */
  revision: number;
  timeline: number;
  /** etcd's revision when this began. */
  goal: number;
  /** Transactions from SQL that waited when this began. */
  transactions: number;
  /** Transactions from SQL that did not arrive, the first ones; and how many. */
  losses: Loss[];
  lost: number;
  /** Of everything, where it was asked for. */
  verdict: Verdict | null;
  seconds: number;
}

const SHOW = 10;
const LOOK_FIRST_MS = 10;
const LOOK_MOST_MS = 250;

/**
 * Returns when the mirror is whole, has all that etcd had at the start, every transaction that waited in the WAL then is
 * settled, and what it wrote is in the mirror too. `full`: compares everything then, and repairs what differs.
 * @throws {Fatal} where the stream cannot be run, is paused, or `signal` aborts before
 */
export async function syncOnce(
  config: Config,
  log: Log,
  signal: AbortSignal,
  { full = false, progress }: {
    full?: boolean;
    progress?: (keys: number, remaining: number) => void;
  } = {},
): Promise<Synced> {
  const from = performance.now();
  await using opened = new AsyncDisposableStack();
  // one run compares where it is asked to, not as often as a daemon
  const troubles = new Troubles(log);
  const told = {
    log,
    troubles,
    telemetry: new Telemetry(config.stream),
    postgres: postgresOptions(config, troubles),
  };
  const stream = await openStream({ ...config, verifyEveryMs: null }, told, opened, { guest: true });
  return await withBoth(config, async () => {
    const run = new Run(stream);
    await using _ = run;
    const begun = await run.begin();
    const standing = await beside(stream, signal, (stop) => run.untilTogether(stop));
    const verdict = full ? await verify(stream, { signal, fix: true, show: SHOW, progress }) : null;
    return {
      ...begun,
      ...await run.losses(),
      revision: verdict?.revision ?? standing.revision,
      timeline: standing.timeline,
      verdict,
      seconds: Math.round(performance.now() - from) / 1_000,
    };
  });
}

/** What `work` returns, with the stream running beside it. */
async function beside<T>(
  stream: Stream,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const done = new AbortController();
  const stop = AbortSignal.any([signal, done.signal]);
  const running = runStream(stream, stop);
  const working = work(stop);
  try {
    // it ends by itself only with an error, or by the signal, which ends the work too
    return await Promise.race([working, running.then(() => working)]);
  } finally {
    done.abort();
    await Promise.allSettled([running, working]);
  }
}

function paused(stream: string, since: Date): Fatal {
  return new Fatal(
    "runtime",
    `Cannot bring both sides together: stream '${stream}' is paused since ${since.toISOString()}; 'etcd-pg-sync resume' ends that`,
  );
}

/** One run, on a session of its own, which is opened again where it breaks. */
class Run implements AsyncDisposable {
  readonly #stream: Stream;
  #session: Session | undefined;
  #goal = 0;
  #timeline = 0;
  #ticket = 0;
  #event = 0;

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  async begin(): Promise<Pick<Synced, "led" | "goal" | "transactions">> {
    const session = await this.#open();
    const { transactions, ticket, event, timeline } = await readWaiting(session);
    [this.#ticket, this.#event, this.#timeline] = [ticket, event, timeline];
    await this.#readGoal();
    return { led: await hasLeader(session), goal: this.#goal, transactions };
  }

  /** etcd's revision, linearizably. */
  async #readGoal(): Promise<void> {
    const { from } = prefixRange(this.#stream.settings.prefix);
    this.#goal = (await readKey(this.#stream.kv, from)).revision;
  }

  async untilTogether(signal: AbortSignal): Promise<Standing> {
    let last: Standing | undefined;
    /** Once the WAL is settled the mirror has to reach what was sent, and no more than that. */
    let sent: number | null = null;
    for (let pause = LOOK_FIRST_MS; !signal.aborted; pause = Math.min(pause * 2, LOOK_MOST_MS)) {
      last = await this.#look() ?? last;
      if (last && last.timeline !== this.#timeline) {
        this.#timeline = last.timeline;
        sent = null;
        await this.#readGoal();
      } else if (last && isWhole(last.state)) {
        if (last.settled) sent ??= last.markerRevision;
        if (sent !== null && last.revision >= Math.max(this.#goal, sent)) return last;
      }
      if (last?.pausedAt) throw paused(this.#stream.settings.name, last.pausedAt);
      await sleep(pause, signal);
    }
    throw new Fatal(
      "runtime",
      `Stopped before both sides were together: the mirror is ${
        last ? `at ${last.revision} of ${this.#goal}, state '${last.state}'` : "not known"
      }, writes from SQL ${last?.settled ? "are settled" : "wait"}`,
    );
  }

  /** null: PostgreSQL does not answer now; the stream says so, and tries on. */
  async #look(): Promise<Standing | null> {
    try {
      return await readStanding(await this.#open(), this.#ticket);
    } catch (error) {
      if (kindOf(error) !== "connection") throw error;
      await this[Symbol.asyncDispose]();
      return null;
    }
  }

  async losses(): Promise<Pick<Synced, "losses" | "lost">> {
    const { losses, count } = await readLosses(await this.#open(), this.#event, SHOW);
    return { losses, lost: count };
  }

  async #open(): Promise<Session> {
    return this.#session ??= await Session.open(this.#stream.postgres);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.[Symbol.asyncDispose]();
  }
}
