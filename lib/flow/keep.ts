/**
 * Housekeeping, on a session of its own: what is old goes, in small steps that are committed one by one and spread in time; and
 * writers are told how much more may wait. One instance does it, with or without an etcd to lead with. Nothing here needs the
 * fence: what may go is decided by what is committed (sql/008_keep.sql), whoever looks.
 */
import { codeOf, namedSentence } from "../errors.ts";
import { Backoff, sleep } from "../lifecycle.ts";
import { Session } from "../postgres/client.ts";
import {
  endFrozenKeeper,
  isKeeper,
  mark,
  type Retention,
  roomForWriters,
  trimEvents,
  trimHistory,
  trimWal,
} from "../postgres/keep.ts";
import { readStream, writeEvent } from "../postgres/state.ts";
import type { Stream } from "../stream.ts";

const STANDBY_MS = 5_000;
const LIMIT_EVERY_MS = 1_000;
/** SIGHUP changes them. */
const SETTINGS_EVERY_MS = 1_000;
const MOST_OFTEN_MS = 1_000;
const LEAST_PAUSE_MS = 20;
/** Well below what another instance takes for frozen. */
const MOST_PAUSE_MS = 3_000;
const MINUTE_MS = 60_000;

/** Runs until `signal` aborts. What it cannot do now it does later. */
export async function keep(stream: Stream, signal: AbortSignal): Promise<void> {
  const backoff = new Backoff();
  while (!signal.aborted) {
    try {
      await using session = await Session.open(stream.postgres);
      // a step that hangs must not hold up a stop; cut off, it is done or it is not
      signal.addEventListener("abort", () => void session[Symbol.asyncDispose](), { once: true });
      while (!signal.aborted && !await isKeeper(session)) {
        await endFrozenKeeper(session);
        await sleep(STANDBY_MS, signal);
      }
      await keepOn(stream, session, signal, () => backoff.reset());
    } catch (error) {
      if (signal.aborted) return;
      stream.troubles.tell(
        "keep",
        { code: codeOf(error), error: namedSentence(error) },
        "retention and the limit of the WAL wait; trying on",
      );
      await backoff.pause(signal);
    }
  }
}

async function keepOn(
  stream: Stream,
  session: Session,
  signal: AbortSignal,
  done: () => void,
): Promise<void> {
  const limit = new WalLimit(stream, session);
  let { retention } = stream.settings;
  let tasks = retentionTasks(session, retention);
  while (!signal.aborted && await isKeeper(session)) { // it is; others see that it is not frozen
    if (stream.settings.retention !== retention) { // changed at run time
      ({ retention } = stream.settings);
      tasks = retentionTasks(session, retention);
    }
    const began = performance.now();
    await limit.check(began);
    await nextStep(tasks, began);
    done();
    const now = performance.now();
    const pause = tasks.some((task) => task.steps)
      ? Math.min(now - began, MOST_PAUSE_MS) // half of the time at most
      : Math.min(limit.due, now + SETTINGS_EVERY_MS, ...tasks.map((task) => task.due)) - now;
    await sleep(Math.max(LEAST_PAUSE_MS, pause), signal);
  }
}

/** Something that is walked through in steps, every so often. */
interface Task {
  everyMs: number;
  /** In `performance.now()`'s time. */
  due: number;
  begin: () => AsyncGenerator<void>;
  steps?: AsyncGenerator<void>;
}

function retentionTasks(session: Session, retention: Retention): Task[] {
  const { walMs, historyMs, eventMs } = retention;
  // as precise as a fiftieth of the time that is kept
  const often = (ms: number | null, most: number) =>
    Math.min(Math.max(MOST_OFTEN_MS, (ms ?? Infinity) / 50), most);
  const markEvery = Math.min(often(walMs, 10 * MINUTE_MS), often(historyMs, 10 * MINUTE_MS));
  const task = (everyMs: number, begin: Task["begin"]): Task => ({ everyMs, due: 0, begin });
  async function* marks(): AsyncGenerator<void> {
    await mark(session, markEvery, historyMs);
    yield;
  }
  const tasks: Task[] = [];
  // a mark is passed soon after it was made: looked at more often than one is made
  if (walMs !== null || historyMs !== null) tasks.push(task(Math.max(MOST_OFTEN_MS, markEvery / 10), marks));
  if (walMs !== null) tasks.push(task(often(walMs, 10 * MINUTE_MS), () => trimWal(session, retention)));
  // each walks through the whole archive
  if (historyMs !== null) {
    tasks.push(task(often(historyMs, 360 * MINUTE_MS), () => trimHistory(session, retention)));
  }
  if (eventMs !== null) {
    tasks.push(task(often(eventMs, 360 * MINUTE_MS), () => trimEvents(session, retention)));
  }
  return tasks;
}

/** One step of one task. */
async function nextStep(tasks: Task[], now: number): Promise<void> {
  const task = tasks.find((task) => task.steps || task.due <= now);
  if (!task) return;
  task.steps ??= task.begin();
  const step = await task.steps.next();
  tasks.push(...tasks.splice(tasks.indexOf(task), 1)); // the others have their turn
  if (!step.done) return;
  task.steps = undefined;
  task.due = now + task.everyMs;
}

/** Tells writers how many more rows may wait, and people when there are many. */
class WalLimit {
  due = 0;
  readonly #stream: Stream;
  readonly #session: Session;
  #limit: number | null;
  #told: "wal-filling" | "wal-full" | null = null;

  constructor(stream: Stream, session: Session) {
    this.#stream = stream;
    this.#session = session;
    this.#limit = stream.settings.walLimit;
  }

  async check(now: number): Promise<void> {
    const limit = this.#stream.settings.walLimit;
    if (now < this.due && limit === this.#limit) return;
    this.#limit = limit;
    const waiting = await roomForWriters(this.#session, limit);
    // counting a long queue takes a while: a twentieth of the time at most
    this.due = now + Math.max(LIMIT_EVERY_MS, 20 * (performance.now() - now));
    if (limit === null || waiting === null) this.due = Infinity;
    else await this.#tell(waiting, limit);
  }

  /** Once an episode; it is over when half of the limit is free. */
  async #tell(waiting: number, limit: number): Promise<void> {
    if (waiting < limit / 2) this.#told = null;
    const kind = waiting >= limit ? "wal-full" : waiting >= limit * 0.8 ? "wal-filling" : null;
    if (kind === null || kind === this.#told || this.#told === "wal-full") return;
    this.#told = kind;
    const detail = { waiting, limit };
    this.#stream.log.warn(
      { code: kind === "wal-full" ? "EPS-609" : "EPS-708", ...detail },
      kind === "wal-full"
        ? "the WAL is full: new writes from SQL are refused until etcd has taken some"
        : "the WAL fills: at its limit new writes from SQL are refused",
    );
    const { timeline } = await readStream(this.#session);
    await writeEvent(this.#session, kind, timeline, { detail });
  }
}
