/** All that the judges of tests/support/validators.ts need of one site, recorded while faults are at work. */
import { Buffer } from "node:buffer";
import { EtcdDoor, type Event } from "../support/etcd.ts";
import { pause } from "../support/eventually.ts";
import { markerPuts, mirroredEvents, quiet, readSplit, readWal, takeSnapshot } from "../support/history.ts";
import { Session } from "../support/postgres.ts";
import type { Acknowledged, ClientTransaction, Mirrored, Run, Snapshot } from "../support/validators.ts";
import { readMoves } from "./audit.ts";
import { COLD, type Site } from "./site.ts";

const EVERY_MS = 15;

/**
 * Follows a site from its beginning. etcd's log is read piece by piece, so a compaction asks `logUpTo` first: what has
 * been recorded may be compacted.
 */
export class Recorder implements AsyncDisposable {
  readonly snapshots: Snapshot[] = [];
  readonly clients: ClientTransaction[] = [];
  readonly acknowledged: Acknowledged[] = [];
  /** All snapshots that were taken, also those that are judged already. */
  taken = 0;
  readonly #events: Event[] = [];
  readonly #site: Site;
  #door: EtcdDoor;
  readonly #recording: Promise<unknown>;
  #position = 0;
  #logging: Promise<number> | undefined;
  #stop = false;
  #setBack = false;
  /** When PostgreSQL's processes were last started together. */
  #started: string | undefined;
  #reading = Promise.resolve();

  constructor(site: Site) {
    this.#site = site;
    this.#door = new EtcdDoor(site.etcd.dsn);
    this.#recording = Promise.all([this.#readAll(), this.#logAll()]);
  }

  get events(): number {
    return this.#events.length;
  }

  /** Records etcd's log up to now; the revision up to which it is recorded. Fails where etcd does not answer. */
  async logUpToNow(): Promise<number> {
    await this.#logging?.catch(() => {});
    return await (this.#logging ??= this.#log().finally(() => this.#logging = undefined));
  }

  /** Runs what sets the mirror back between two snapshots. */
  async settingBack(work: () => Promise<void>): Promise<void> {
    const before = this.#reading;
    this.#reading = before.then(work).then(() => {
      this.#setBack = true;
    });
    await this.#reading;
  }

  /** Waits until all is quiet. What was judged before is not judged again, but for the last snapshot. */
  async run(timeoutMs: number): Promise<Run> {
    const { world } = this.#site;
    await quiet(world, timeoutMs);
    await this.logUpToNow();
    await using session = new Session(world.postgresDsn);
    const last = await takeSnapshot(session);
    const events = mirroredEvents(this.#events, world.prefix);
    checkWhole(this.#events);
    return {
      events,
      markers: markerPuts(this.#events),
      snapshots: [...this.snapshots, last],
      wal: await readWal(world),
      clients: this.clients,
      split: await readSplit(world),
      acknowledged: this.acknowledged.toSorted((a, b) => a.at - b.at),
      moves: await readMoves(world),
      everyClient: true,
    };
  }

  /** The next run has only snapshots from here on. */
  forgetSnapshots(): void {
    this.snapshots.splice(0, this.snapshots.length - 1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop = true;
    await this.#recording;
    await this.#door[Symbol.asyncDispose]();
  }

  async #logAll(): Promise<void> {
    while (!this.#stop) {
      await this.logUpToNow().catch(() => this.#reopen()); // etcd is down
      await pause(100);
    }
  }

  async #reopen(): Promise<void> {
    await this.#door[Symbol.asyncDispose]();
    this.#door = new EtcdDoor(this.#site.etcd.dsn);
  }

  async #log(): Promise<number> {
    const events = await this.#door.history("", this.#position + 1);
    for (const event of events) this.#events.push(event);
    this.#position = Math.max(this.#position, events.at(-1)?.mod_revision ?? 0);
    return this.#position;
  }

  async #readAll(): Promise<void> {
    let session = new Session(this.#site.world.postgresDsn, { once: true });
    while (!this.#stop) {
      await this.#reading;
      try {
        await (this.#reading = this.#read(session));
      } catch { // PostgreSQL is down
        this.#reading = Promise.resolve();
        await session[Symbol.asyncDispose]();
        session = new Session(this.#site.world.postgresDsn, { once: true });
        await pause(100);
      }
      await pause(EVERY_MS);
    }
    await session[Symbol.asyncDispose]();
  }

  /** A crash of PostgreSQL takes back what was not on disk yet, as docs/how-it-works.md says. */
  async #read(session: Session): Promise<void> {
    const [{ started }] = await session.sql(
      "select backend_start::text as started from pg_stat_activity where backend_type = 'checkpointer'",
    );
    if (this.#started !== undefined && started !== this.#started) this.#setBack = true;
    this.#started = started;
    const snapshot = await takeSnapshot(session, COLD);
    this.taken++;
    const last = this.snapshots.at(-1);
    if (this.#setBack) Object.assign(snapshot, { setBack: true });
    this.#setBack = false;
    const same = last && !snapshot.setBack && snapshot.revision === last.revision &&
      snapshot.state === last.state && snapshot.timeline === last.timeline && equal(snapshot.rows, last.rows);
    if (!same) this.snapshots.push({ ...snapshot, rows: shared(snapshot.rows, last?.rows ?? []) });
    else if (last && !last.setBack) last.fresh_at = snapshot.fresh_at; // the same mirror, claimed for longer
  }
}

function equal(a: Mirrored[], b: Mirrored[]): boolean {
  if (a.length !== b.length) return false;
  const byKey = new Map(b.map((row) => [row.key, row]));
  return a.every((row) => same(row, byKey.get(row.key)));
}

/** The rows, with those objects of the snapshot before that are the same: a row stands in memory once. */
function shared(rows: Mirrored[], before: Mirrored[]): Mirrored[] {
  const byKey = new Map(before.map((row) => [row.key, row]));
  return rows.map((row) => {
    const old = byKey.get(row.key);
    return same(row, old) ? old! : row;
  });
}

function same(a: Mirrored, b: Mirrored | undefined): boolean {
  return b !== undefined && a.revision === b.revision && a.value === b.value && a.version === b.version &&
    a.create_revision === b.create_revision && a.lease === b.lease &&
    Buffer.compare(a.value_bytes ?? Buffer.alloc(0), b.value_bytes ?? Buffer.alloc(0)) === 0 &&
    (a.value_bytes === null) === (b.value_bytes === null);
}

/** Each revision has an event: where one is missing the recorder itself is wrong, and nothing can be judged. */
function checkWhole(events: Event[]): void {
  events.forEach(({ mod_revision }, i) => {
    const before = i === 0 ? 1 : events[i - 1].mod_revision;
    if (mod_revision !== before && mod_revision !== before + 1) {
      throw new Error(`The log is not whole: revision ${mod_revision} comes after ${before}`);
    }
  });
}
