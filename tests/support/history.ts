/** Records a run for the judges of validators.ts. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { keyBytes } from "../../lib/core/codec.ts";
import { eventually } from "./eventually.ts";
import type { Event, Row, World } from "./world.ts";
import {
  type ClientTransaction,
  type Happened,
  type MarkerPut,
  report,
  type Run,
  type Snapshot,
  validate,
  type WalEntry,
} from "./validators.ts";

const OWN = "/_etcd-pg-sync/";
const LONGEST = 2_500;

/** A key as SQL writes it, one character for each of its bytes in etcd. */
export function latin1(key: string): string {
  return Buffer.from(keyBytes(key)).toString("latin1");
}

/**
 * The mirror and the state row, of one moment; keys under `without`, of which there are too many to be read each time,
 * are left out.
 */
export async function takeSnapshot(session: Reading, without?: string): Promise<Snapshot> {
  await session.sql("begin isolation level repeatable read read only");
  const [state] = await session.sql(
    `select state, revision, timeline, epoch, holder, (extract(epoch from fresh_at) * 1000)::float8 as fresh_at
     from etcd_sync_state`,
  );
  const rows = await session.sql(
    `select key, value, value_bytes, revision, create_revision, version, lease::text as lease from etcd_kv
     where $1::text is null or not starts_with(key, $1)`,
    [without ?? null],
  );
  await session.sql("commit");
  return { ...state, without, rows: rows.map((row) => ({ ...row, key: latin1(row.key) })) } as Snapshot;
}

interface Reading {
  sql(text: string, params?: unknown[]): Promise<Row[]>;
}

/** Takes snapshots one after another, until it is disposed of. */
export class Reader implements AsyncDisposable {
  readonly snapshots: Snapshot[] = [];
  readonly #done: Promise<void>;
  #stop = false;

  constructor(world: World) {
    this.#done = this.#read(world.session());
  }

  async stop(): Promise<Snapshot[]> {
    this.#stop = true;
    await this.#done;
    return this.snapshots;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #read(session: Reading): Promise<void> {
    while (!this.#stop) {
      const last = this.snapshots.at(-1);
      const snapshot = await takeSnapshot(session);
      // one for each commit is enough
      if (snapshot.revision !== last?.revision || snapshot.state !== last?.state) {
        this.snapshots.push(snapshot);
      }
    }
  }
}

export async function readWal(world: World): Promise<WalEntry[]> {
  const rows = await world.sql(`select *, txid::text || ' ' || ts as transaction from etcd_wal order by id`);
  return rows.map((row) => ({
    ...row,
    key: latin1(row.key),
    value: row.tombstone ? null : row.value_bytes ?? Buffer.from(row.value),
  })) as WalEntry[];
}

/** Every event of the mirrored keys, from etcd itself. */
export async function readEvents(world: World, from = 1): Promise<Happened[]> {
  return mirroredEvents(await world.etcd.history(world.prefix, from), world.prefix);
}

/** Of all events, those that the stream mirrors. */
export function mirroredEvents(events: Event[], prefix: string): Happened[] {
  const start = Buffer.from(prefix).toString("latin1");
  return events.map((event) => ({ ...event, key: event.key.toString("latin1") }))
    .filter(({ key }) => key.startsWith(start) && !key.startsWith(OWN) && key.length <= LONGEST);
}

export async function readMarkers(world: World, from = 1): Promise<MarkerPut[]> {
  return markerPuts(await world.etcd.history(OWN, from));
}

/** Of all events, the puts of the marker. */
export function markerPuts(events: Event[]): MarkerPut[] {
  const puts = events.filter(({ type, key }) => type === "put" && key.toString().startsWith(OWN));
  return puts.map(({ value, mod_revision }) => {
    const marker = JSON.parse(String(value));
    return {
      ...marker,
      revision: mod_revision,
      bump: marker.batchRevision !== undefined || marker.batch === 0,
    };
  });
}

/** Waits until nothing is under way: the WAL is empty, and the mirror stands where etcd does. */
export async function quiet(world: World, timeoutMs = 20_000): Promise<void> {
  await eventually(async () => {
    // in this order: what was pending is in etcd when none is, then etcd's revision has it, then the mirror
    const [{ pending }] = await world.sql(
      "select count(*) as pending from etcd_wal where status = 'pending'",
    );
    const end = await world.etcd.revision();
    const [row] = await world.sql("select state, revision from etcd_sync_state");
    if (row.state === "streaming" && row.revision >= end && pending === 0) return true;
    throw new Error(`state ${row.state}, revision ${row.revision} of ${end}, ${pending} writes pending`);
  }, { timeoutMs });
}

export interface Recorded {
  /** etcd's revision before the run. */
  from: number;
  snapshots?: Snapshot[];
  clients?: ClientTransaction[];
}

/** The whole run, once it is quiet. */
export async function record(world: World, { from, snapshots = [], clients = [] }: Recorded): Promise<Run> {
  return {
    events: await readEvents(world, from),
    markers: await readMarkers(world, from),
    snapshots: [...snapshots, await takeSnapshot(world)],
    wal: await readWal(world),
    clients,
    split: await readSplit(world),
  };
}

/** Transactions that were sent in parts. */
export async function readSplit(world: World): Promise<string[]> {
  const split = await world.sql(
    `select distinct w.txid::text || ' ' || w.ts as transaction from etcd_sync_event e
     join etcd_wal w on w.id = (e.detail->>'first_wal_id')::bigint where e.kind = 'split'`,
  );
  return split.map(({ transaction }) => transaction);
}

/** Fails with every promise that the run has broken. */
export function assertKept(run: Run): void {
  const violations = validate(run);
  assert.equal(violations.length, 0, report(violations));
}

/** Waits until it is quiet, and judges the run. */
export async function judged(world: World, recorded: Recorded, timeoutMs?: number): Promise<Run> {
  await quiet(world, timeoutMs);
  const run = await record(world, recorded);
  assertKept(run);
  return run;
}
