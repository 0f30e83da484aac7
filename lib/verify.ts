/**
 * Comparing etcd with the mirror, and repairing what differs, beside a program that runs or without one. Both are read at
 * one revision: the mirror in a snapshot, whose checkpoint is R, and etcd at R. So what is written meanwhile, on either
 * side, is no difference.
 *
 *   etcd         ─────────── R ──────────────►   pages at R         ─┐
 *                            │ mirrored                              ├─ in the order of keys ─► differences ─► repairs
 *   PostgreSQL   ─────────── R ──────────────►   COPY from snapshot ─┘
 *
 * What is read waits for what is written, so the memory is that of two pages. A repair is right at the checkpoint at which
 * it is committed (sql/011_verify.sql has the proof); where that cannot be told, it is left to the next comparison, which
 * follows whenever something was found.
 */
import {
  type Compared,
  type Difference,
  differences,
  emptyRepair,
  type Field,
  pushRepair,
} from "./core/compare.ts";
import type { Selection } from "./core/plan.ts";
import type { KeyValue, Page } from "./core/words.ts";
import { codeOf, Fatal, kindOf, sentence } from "./errors.ts";
import type { EtcdClient } from "./etcd/client.ts";
import { isCompacted, isFuture } from "./etcd/kv.ts";
import { PageReader } from "./etcd/pages.ts";
import { Backoff, sleep } from "./lifecycle.ts";
import type { Log } from "./log.ts";
import { isWhole } from "./machine.ts";
import { type PostgresOptions, Session } from "./postgres/client.ts";
import type { StreamRow } from "./postgres/state.ts";
import { type Counts, MirrorSnapshot, recordDrift, recordVerified, repair } from "./postgres/verify.ts";
import { prefixRange } from "./stream.ts";

/** What is compared; a `Stream` is one. */
export interface Sides {
  kv: EtcdClient;
  postgres: PostgresOptions;
  select: Selection;
  log: Log;
}

export interface VerifyOptions {
  signal: AbortSignal;
  /** Only the keys that begin with it, which have the stream's prefix; undefined = everything. */
  prefix?: Uint8Array;
  /** Repairs what differs, and compares again until nothing does. */
  fix?: boolean;
  /** So many differences are named; 10 if not given. */
  show?: number;
  /** Rests as long as it works. */
  gentle?: boolean;
  /** Called for each page of etcd: its keys, and how many are behind it. */
  progress?: (keys: number, remaining: number) => void;
}

/** A difference, to be shown: keys and numbers, no value. */
export interface ShownDifference {
  kind: Difference["kind"];
  key: string;
  /** Null where the key is not there. Of a value the number of its bytes. */
  etcd: Record<Field, number | string> | null;
  mirror: Record<Field, number | string> | null;
  /** What differs, of a key that both have. */
  fields: Field[];
}

/** What one comparison has found. */
export interface Found extends Counts {
  revision: number;
  timeline: number;
  /** Keys of etcd that were compared. */
  keys: number;
  shown: ShownDifference[];
}

export interface Verdict extends Found {
  /** What the last comparison has found: nothing, where all was repaired. */
  left: Counts;
  /** Rows that were repaired, in all comparisons. */
  repaired: number;
  seconds: number;
}

const MOST_COMPARISONS = 5;
const MOST_ATTEMPTS = 5;
const MOVE_ON_MS = 1_000;

/**
 * Compares, and repairs where asked to. Beside everything that was compared, what was found is kept for `status`.
 * @throws {Fatal} where it cannot be compared, or `signal` aborts
 */
export async function verify(sides: Sides, options: VerifyOptions): Promise<Verdict> {
  const from = performance.now();
  await using session = await Session.open(sides.postgres);
  using _ = abandonedBy(options.signal, session);
  const repairer = options.fix ? new Repairer(session, sides.select) : null;
  const first = await compareSettled(sides, options, repairer);
  let last = first;
  for (let n = 1; repairer && countOf(last) > 0 && n < MOST_COMPARISONS; n++) {
    last = await compareSettled(sides, options, repairer);
  }
  const left = { missing: last.missing, extra: last.extra, different: last.different };
  const repaired = repairer?.repaired ?? 0;
  const seconds = Math.round(performance.now() - from) / 1_000;
  const verdict = { ...first, revision: last.revision, timeline: last.timeline, left, repaired, seconds };
  await record(sides, session, verdict, options.prefix === undefined);
  return verdict;
}

export function countOf({ missing, extra, different }: Counts): number {
  return missing + extra + different;
}

async function record(sides: Sides, session: Session, verdict: Verdict, full: boolean): Promise<void> {
  const { missing, extra, different, left } = verdict;
  try {
    if (countOf(verdict) > 0) {
      const keys = verdict.shown.slice(0, 10).map(({ key }) => key);
      await recordDrift(session, verdict, { missing, extra, different, keys });
    }
    if (full) await recordVerified(session, { ...verdict, ...left });
  } catch (error) {
    if (kindOf(error) !== "permission") throw error;
    sides.log.warn({ code: codeOf(error), error: sentence(error) }, "what was found is not recorded");
  }
}

/** One comparison at the mirror's checkpoint. Where etcd compacts that meanwhile, it begins again at a later one. */
async function compareSettled(
  sides: Sides,
  options: VerifyOptions,
  repairer: Repairer | null,
): Promise<Found> {
  let at = 0;
  for (let attempt = 1;; attempt++) {
    try {
      await using snapshot = await MirrorSnapshot.open(sides.postgres);
      requireWhole(snapshot.at);
      at = snapshot.at.revision;
      return await compare(sides, snapshot, at, options, repairer);
    } catch (error) {
      if (isFuture(error) && attempt > 1) throw anotherHistory(`its revision is below the checkpoint ${at}`);
      if (!isFuture(error) && !isCompacted(error)) throw error;
      if (attempt === MOST_ATTEMPTS) {
        throw new Fatal(
          "runtime",
          `Cannot compare: etcd has compacted revision ${at}, the mirror's checkpoint; if the mirror stands still, start the program, else compact less often`,
        );
      }
      await sleep(MOVE_ON_MS, options.signal);
    }
  }
}

function requireWhole(row: StreamRow): void {
  if (isWhole(row.state)) return;
  throw new Fatal(
    "runtime",
    `Cannot compare: the mirror is at no revision, its state is '${row.state}'; a scan compares everything by itself, wait for its end (it goes on while 'etcd-pg-sync start' runs)`,
  );
}

function anotherHistory(because: string): Fatal {
  return new Fatal(
    "runtime",
    `Cannot compare: etcd is not the one that was mirrored, ${because}; 'etcd-pg-sync start' begins a new timeline where it was restored`,
  );
}

/**
 * What would have to change in the mirror for it to be as etcd is now, whatever state it is in; `installed` false: there
 * is none. Nothing is written.
 * @throws {Fatal} where it cannot be compared, or `signal` aborts
 */
export async function compareWithNow(
  sides: Sides,
  installed: boolean,
  options: VerifyOptions,
): Promise<Found & { mirror: Mirror["at"] }> {
  await using opened = new AsyncDisposableStack();
  const mirror = installed ? opened.use(await MirrorSnapshot.open(sides.postgres)) : NO_MIRROR;
  return { ...await compare(sides, mirror, null, options, null), mirror: mirror.at };
}

type Mirror = Pick<MirrorSnapshot, "plain" | "escaped" | "abandon"> & {
  at: Pick<StreamRow, "state" | "revision" | "timeline" | "clusterId">;
};

const NO_MIRROR: Mirror = {
  at: { state: "bootstrap", revision: 0, timeline: 1, clusterId: null },
  async *plain() {},
  async *escaped() {},
  abandon() {},
};

/** `revision` null: at etcd's newest one. */
async function compare(
  sides: Sides,
  mirror: Mirror,
  revision: number | null,
  { signal, prefix, show = 10, gentle = false, progress }: VerifyOptions,
  repairer: Repairer | null,
): Promise<Found> {
  const { at } = mirror;
  using _ = abandonedBy(signal, mirror);
  const range = prefixRange(prefix ?? sides.select.prefix);
  const pages = new Pages(sides.kv, range, at, revision, signal, progress);
  const rows = prefix === undefined ? null : range;
  const compared: Compared = { keys: 0 };
  const found: Found = {
    revision: at.revision,
    timeline: at.timeline,
    keys: 0,
    missing: 0,
    extra: 0,
    different: 0,
    shown: [],
  };
  const all = differences(pages.read(gentle), mirror.plain(rows), mirror.escaped(rows), {
    select: sides.select,
    timeline: at.timeline,
    compared,
  });
  repairer?.begin();
  for await (const difference of all) {
    found[difference.kind]++;
    if (found.shown.length < show) found.shown.push(shown(difference, at.timeline));
    await repairer?.add(difference, found);
  }
  await repairer?.flush(found);
  return { ...found, revision: pages.revision, keys: compared.keys };
}

/** Who waits for an answer of the sessions gets none any more once `signal` aborts: a lock may stand in its way. */
function abandonedBy(signal: AbortSignal, sessions: { abandon(reason: Error): void }): Disposable {
  const stop = () => sessions.abandon(stopped());
  signal.addEventListener("abort", stop, { once: true });
  return { [Symbol.dispose]: () => signal.removeEventListener("abort", stop) };
}

function stopped(): Fatal {
  return new Fatal("runtime", "Stopped before everything was compared");
}

/** etcd's keys at one revision; the next page is read while this one is compared. */
class Pages {
  readonly #reader: PageReader;
  /** 0: not known yet, etcd's newest. */
  revision: number;

  constructor(
    kv: EtcdClient,
    readonly range: { from: Uint8Array; to: Uint8Array },
    readonly mirrored: Mirror["at"],
    revision: number | null,
    readonly signal: AbortSignal,
    readonly progress: VerifyOptions["progress"],
  ) {
    this.#reader = new PageReader(kv, range.to);
    this.revision = revision ?? 0;
  }

  async *read(gentle: boolean): AsyncGenerator<KeyValue[]> {
    let ahead: Promise<Page> | null = this.#page(this.range.from);
    while (ahead) {
      const page: Page = await orStopped(ahead, this.signal);
      const from = performance.now();
      this.#check(page);
      this.revision ||= page.revision;
      ahead = page.last ? null : this.#page(page.to);
      yield [...page.keys];
      this.progress?.(page.keys.count, page.remaining - page.keys.count);
      if (gentle) await sleep(performance.now() - from, this.signal);
    }
  }

  #check({ clusterId, revision }: Page): void {
    const { mirrored } = this;
    if (mirrored.clusterId !== null && clusterId !== mirrored.clusterId) {
      throw anotherHistory(`its cluster id is '${clusterId}', was '${mirrored.clusterId}'`);
    }
    if (revision < mirrored.revision) {
      throw anotherHistory(`its revision is ${revision}, the checkpoint ${mirrored.revision}`);
    }
  }

  #page(from: Uint8Array): Promise<Page> {
    const page = this.#tryOn(from);
    page.catch(() => {}); // it is awaited after the page before it
    return page;
  }

  /** A connection that breaks once is no reason to begin again: the page stays what it is. */
  async #tryOn(from: Uint8Array): Promise<Page> {
    const backoff = new Backoff();
    for (;;) {
      try {
        return await this.#reader.read(from, this.revision);
      } catch (error) {
        if (kindOf(error) !== "connection" || backoff.attempts === MOST_ATTEMPTS) throw error;
        await backoff.pause(this.signal);
      }
    }
  }
}

/** `work`, or an error as soon as `signal` aborts; the work itself goes on. */
async function orStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(stopped());
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

const REPAIR_KEYS = 1_000;
const REPAIR_BYTES = 1 << 20;

/** Repairs differences as they are found, so that none has to be kept. */
class Repairer {
  readonly #session: Session;
  readonly #select: Selection;
  #columns = emptyRepair();
  repaired = 0;

  constructor(session: Session, select: Selection) {
    this.#session = session;
    this.#select = select;
  }

  /** What a comparison that was cut off has found was so at its revision, and nothing is known of it at the next one's. */
  begin(): void {
    this.#columns = emptyRepair();
  }

  async add(difference: Difference, at: { revision: number; timeline: number }): Promise<void> {
    pushRepair(this.#columns, difference, this.#select);
    if (this.#columns.keys.length >= REPAIR_KEYS || this.#columns.size >= REPAIR_BYTES) await this.flush(at);
  }

  /** @throws {Fatal} where the mirror is at no revision any more */
  async flush(at: { revision: number; timeline: number }): Promise<void> {
    const columns = this.#columns;
    this.#columns = emptyRepair();
    if (columns.keys.length === 0) return;
    // what is outdated is left to the next comparison
    const { outcome, repaired } = await repair(this.#session, at, columns);
    this.repaired += repaired;
    if (outcome === "scanning") {
      throw new Fatal(
        "runtime",
        "Cannot repair: a scan has begun, which compares everything by itself; wait for its end, then validate again",
      );
    }
  }
}

function shown(
  { kind, key, etcd, mirror, fields }: Difference,
  timeline: number,
): ShownDifference {
  return {
    kind,
    key,
    etcd: etcd && {
      value: etcd.value.length,
      revision: etcd.modRevision,
      create_revision: etcd.createRevision,
      version: etcd.version,
      lease: String(etcd.lease),
      timeline,
    },
    mirror: mirror && {
      value: mirror.value?.length ?? mirror.valueBytes?.length ?? 0,
      revision: mirror.revision,
      create_revision: mirror.createRevision,
      version: mirror.version,
      lease: String(mirror.lease),
      timeline: mirror.timeline,
    },
    fields,
  };
}
