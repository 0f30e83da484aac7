/**
 * The promises (docs/how-it-works.md) as judges: what happened → violations, whose text quotes the promise. Pure, and
 * themselves tested on forged bad histories (tests/unit/validators_test.ts). tests/support/history.ts records the runs.
 */

import { Buffer } from "node:buffer";

export const PROMISES = {
  1: "The mirror is a point in etcd's history",
  2: "Nothing is lost, nothing is applied twice",
  3: "A PostgreSQL transaction is one etcd transaction",
  4: "etcd wins",
  5: "Lossless",
  6: "One writer",
  7: "Fresh or not ready",
} as const;
export type PromiseNumber = keyof typeof PROMISES;

export interface Violation {
  promise: PromiseNumber;
  text: string;
}

/** One event of etcd's log. Keys are latin1: one character for each byte. */
export interface Happened {
  type: "put" | "delete";
  key: string;
  value: Buffer;
  mod_revision: number;
  create_revision: number;
  version: number;
  lease: string;
}

/** A row of the mirror, its key decoded to bytes (latin1). */
export interface Mirrored {
  key: string;
  value: string | null;
  value_bytes: Buffer | null;
  revision: number;
  create_revision: number;
  version: number;
  lease: string;
}

/** The mirror and the state row in one snapshot of PostgreSQL. */
export interface Snapshot {
  state: string;
  revision: number;
  timeline: number;
  rows: Mirrored[];
  /** Until when the mirror says that it was fresh, in ms since 1970 by PostgreSQL's clock. */
  fresh_at?: number | null;
  /** Rows whose key begins so are left out. */
  without?: string;
  /** The test itself has put the mirror back before this snapshot, as a failover behind a pooler does. */
  setBack?: boolean;
}

/** etcd had answered that this revision is written. */
export interface Acknowledged {
  revision: number;
  /** When the answer was here, in ms since 1970. */
  at: number;
}

/** One committed change of the state row, in the order of commits. */
export interface Move {
  /** The session that made it. */
  pid: number;
  epoch: number;
  holder: string | null;
  /** The sessions that the holder says are its own. */
  pids: number[];
  state: string;
  timeline: number;
  revision: number;
  batch: number;
  /** A fault of the suite has made it. */
  fault?: boolean;
}

/** A row of `etcd_wal`, its key decoded to bytes (latin1). */
export interface WalEntry {
  id: number;
  /** txid and ts: the PostgreSQL transaction. */
  transaction: string;
  key: string;
  /** null = delete. */
  value: Buffer | null;
  timeline: number;
  revision: number;
  seen_revision: number;
  strict: boolean;
  status: "pending" | "success" | "conflict" | "failed";
  expected_revision: number | null;
  result_revision: number | null;
  error_message: string | null;
  /** Times that it was queued again, by `etcd_retry`. */
  retry_count?: number;
}

/** What a client did in one transaction, as it knows it itself. */
export interface ClientTransaction {
  /** `unknown`: the answer to its commit was lost. */
  outcome: "committed" | "rolled-back" | "unknown";
  /** Begin and end by one clock of the test; a transaction that ended before another began came first. */
  began: number;
  ended: number;
  /** The last write of each key. `value` null = delete. */
  writes: { id: number; key: string; value: Buffer | null }[];
  /** What `etcd_wait` has answered after the commit. */
  waited?: { id: number; status: string; result_revision: number | null };
}

/** A put of the marker. */
export interface MarkerPut {
  revision: number;
  epoch: number;
  holder: string;
  batch: number;
  /** It was put by a new leader, not by a batch. */
  bump: boolean;
}

export interface Run {
  /** Every event under the prefix, but for the program's own keys and those too long to be mirrored. */
  events: Happened[];
  markers: MarkerPut[];
  /** In the order in which they were taken; the last one when all was quiet. */
  snapshots: Snapshot[];
  wal: WalEntry[];
  clients: ClientTransaction[];
  /** Transactions (as in WalEntry) of which an event says that they were split. */
  split: string[];
  /** What etcd's clients were answered, in the order of time. */
  acknowledged?: Acknowledged[];
  moves?: Move[];
  /** `clients` holds all that was written from SQL. */
  everyClient?: boolean;
}

/** All of them. */
export function validate(run: Run): Violation[] {
  const judges = [
    mirrorIsAPoint,
    nothingLostNothingTwice,
    oneTransaction,
    etcdWins,
    lossless,
    oneWriter,
    freshOrNotReady,
  ];
  return judges.flatMap((judge) => judge(run));
}

/** For `assert`: nothing, or one line for each violation. */
export function report(violations: Violation[]): string {
  return violations.slice(0, 20).map(({ text }) => text).join("\n");
}

function broken(promise: PromiseNumber, what: string): Violation {
  return { promise, text: `promise ${promise}, "${PROMISES[promise]}", is broken: ${what}` };
}

/** etcd's keyspace at one revision after another. */
export class Replay {
  readonly keys = new Map<string, Happened>();
  #at = 0;

  constructor(readonly events: Happened[]) {}

  /** Goes on to a revision, never back. */
  to(revision: number): this {
    while (this.#at < this.events.length && this.events[this.#at].mod_revision <= revision) {
      const event = this.events[this.#at++];
      if (event.type === "put") this.keys.set(event.key, event);
      else this.keys.delete(event.key);
    }
    return this;
  }
}

/** Promise 1. Snapshots of the last timeline only: the log of one before it is gone. */
export function mirrorIsAPoint({ events, snapshots }: Pick<Run, "events" | "snapshots">): Violation[] {
  const violations: Violation[] = [];
  const timeline = Math.max(0, ...snapshots.map((snapshot) => snapshot.timeline));
  const whole = snapshots.filter((snapshot) =>
    snapshot.timeline === timeline && (snapshot.state === "streaming" || snapshot.state === "draining")
  );
  whole.slice(1).forEach((snapshot, i) => {
    if (snapshot.revision < whole[i].revision && !snapshot.setBack) {
      violations.push(
        broken(1, `the checkpoint went back from ${whole[i].revision} to ${snapshot.revision}`),
      );
    }
  });
  const replay = new Replay(events);
  for (const { revision, rows, without } of whole.toSorted((a, b) => a.revision - b.revision)) {
    const { keys } = replay.to(revision);
    const mirrored = new Set(rows.map(({ key }) => key));
    for (const row of rows) {
      const event = keys.get(row.key);
      const what = event ? difference(row, event) : "etcd has no such key there";
      if (what) violations.push(broken(1, `at checkpoint ${revision}, row '${row.key}': ${what}`));
    }
    for (const key of keys.keys()) {
      if (!mirrored.has(key) && !(without && key.startsWith(without))) {
        violations.push(broken(1, `at checkpoint ${revision}, key '${key}' of etcd is not in the mirror`));
      }
    }
  }
  return violations;
}

function difference(row: Mirrored, event: Happened): string | undefined {
  const pairs = [
    ["revision", row.revision, event.mod_revision],
    ["create_revision", row.create_revision, event.create_revision],
    ["version", row.version, event.version],
    ["lease", row.lease, event.lease],
  ];
  const other = pairs.find(([, mirrored, wanted]) => mirrored !== wanted);
  if (other) return `${other[0]} is ${other[1]}, etcd has ${other[2]}`;
  return bytesOf(row)?.equals(event.value) ? undefined : "the value is not etcd's";
}

function bytesOf({ value, value_bytes }: Mirrored): Buffer | undefined {
  if ((value === null) === (value_bytes === null)) return undefined;
  return value_bytes ?? Buffer.from(value!);
}

/**
 * Promise 2. A batch of the drain is a revision in which the marker was put and not bumped; whatever else happened in
 * it was written by SQL. So rows that say `success` and events of batches must be the same writes, one to one.
 */
export function nothingLostNothingTwice(
  run: Pick<Run, "events" | "markers" | "snapshots" | "wal" | "clients" | "everyClient">,
): Violation[] {
  return [...clientsAndWal(run), ...strangers(run), ...walAndEtcd(run), ...endOfHistory(run)];
}

function strangers({ wal, clients, everyClient }: Pick<Run, "wal" | "clients" | "everyClient">): Violation[] {
  if (!everyClient) return [];
  const written = new Set(clients.flatMap(({ writes }) => writes.map(({ id }) => id)));
  return wal.filter(({ id }) => !written.has(id)).map(({ id, key }) =>
    broken(2, `write ${id} of key '${key}' is in the WAL, and no client has made it`)
  );
}

function isRowOf({ key, value }: { key: string; value: Buffer | null }, row: WalEntry | undefined): boolean {
  return row !== undefined && row.key === key &&
    (row.value === null ? value === null : value?.equals(row.value) === true);
}

function clientsAndWal({ wal, clients }: Pick<Run, "wal" | "clients">): Violation[] {
  const violations: Violation[] = [];
  const rows = new Map(wal.map((row) => [row.id, row]));
  for (const { outcome, writes, waited } of clients) {
    const told = waited?.status === "success" ? rows.get(waited.id) : undefined;
    if (told && (told.status !== "success" || told.result_revision !== waited!.result_revision)) {
      violations.push(
        broken(
          2,
          `write ${told.id} was waited for and told success at ${
            waited!.result_revision
          }, and is ${told.status} at ${told.result_revision}`,
        ),
      );
    }
    // a crash of PostgreSQL gives out again the tickets of a transaction that never committed
    const found = writes.filter((write) => isRowOf(write, rows.get(write.id)));
    if (outcome === "unknown" && found.length > 0 && found.length < writes.length) {
      violations.push(
        broken(2, `of a transaction with a lost answer ${found.length} of ${writes.length} writes are there`),
      );
    }
    for (const { id, key } of writes) {
      if (outcome === "committed" && !rows.has(id)) {
        violations.push(broken(2, `write ${id} of key '${key}' was committed and has no row in the WAL`));
      } else if (outcome === "rolled-back" && found.some((write) => write.id === id)) {
        violations.push(broken(2, `write ${id} of key '${key}' was rolled back and is in the WAL`));
      }
    }
  }
  for (const row of wal.filter(({ status }) => status === "pending")) {
    violations.push(broken(2, `write ${row.id} of key '${row.key}' was never settled`));
  }
  return violations;
}

function walAndEtcd({ events, markers, wal }: Pick<Run, "events" | "markers" | "wal">): Violation[] {
  const violations: Violation[] = [];
  const batches = new Set(markers.filter(({ bump }) => !bump).map(({ revision }) => revision));
  const name = (key: string, revision: number) => `${revision} ${key}`;
  const ours = new Map(
    events.filter((event) => batches.has(event.mod_revision)).map((
      event,
    ) => [name(event.key, event.mod_revision), event]),
  );
  const claimed = new Map<string, number>();
  const last = newest(wal);
  for (const row of wal.filter(({ status, timeline }) => status === "success" && timeline === last)) {
    const at = name(row.key, row.result_revision ?? -1);
    const other = claimed.get(at);
    if (other !== undefined) {
      violations.push(
        broken(
          2,
          `writes ${other} and ${row.id} both say they are key '${row.key}' at ${row.result_revision}`,
        ),
      );
    }
    claimed.set(at, row.id);
    if (row.value === null && row.expected_revision === 0) { // a delete of what is not there leaves no event
      if (row.result_revision === null || !batches.has(row.result_revision)) {
        violations.push(
          broken(2, `write ${row.id} says success at ${row.result_revision}, where no batch was applied`),
        );
      }
      continue;
    }
    const event = ours.get(at);
    if (!event) {
      violations.push(
        broken(
          2,
          `write ${row.id} says success at ${row.result_revision}, etcd has no write of '${row.key}' there`,
        ),
      );
    } else if ((event.type === "delete") !== (row.value === null)) {
      violations.push(
        broken(
          2,
          `write ${row.id} of '${row.key}' is a ${
            row.value ? "put" : "delete"
          }, etcd's event at ${row.result_revision} is none`,
        ),
      );
    }
  }
  for (const [at, event] of ours) {
    if (!claimed.has(at)) {
      violations.push(
        broken(
          2,
          `SQL wrote key '${event.key}' at ${event.mod_revision}, and no row says so: it was applied twice, or its answer was lost`,
        ),
      );
    }
  }
  return violations;
}

function newest(wal: WalEntry[]): number {
  return wal.reduce((most, { timeline }) => Math.max(most, timeline), 0);
}

function endOfHistory({ events, snapshots }: Pick<Run, "events" | "snapshots">): Violation[] {
  const last = snapshots.at(-1);
  const revision = events.at(-1)?.mod_revision ?? 0;
  if (!last || last.revision >= revision) return [];
  return [
    broken(2, `the mirror stands at ${last.revision}, and etcd's last event at ${revision} never came`),
  ];
}

/** Promise 3. */
export function oneTransaction({ wal, clients, split }: Pick<Run, "wal" | "clients" | "split">): Violation[] {
  const violations: Violation[] = [];
  for (const [transaction, unordered] of Map.groupBy(wal, (row) => row.transaction)) {
    const rows = unordered.toSorted((a, b) => a.id - b.id);
    const arrived = rows.filter(({ status }) => status === "success");
    const revisions = [...new Set(arrived.map((row) => row.result_revision!))];
    if (!split.includes(transaction)) {
      if (revisions.length > 1) {
        violations.push(
          broken(
            3,
            `transaction ${transaction} arrived in revisions ${
              revisions.join(", ")
            }, and no event says it was split`,
          ),
        );
      }
      if (arrived.length > 0 && arrived.length < rows.length) {
        violations.push(
          broken(3, `transaction ${transaction} arrived in part: ${arrived.length} of ${rows.length} writes`),
        );
      }
      continue;
    }
    if (revisions.some((revision, i) => revision < (revisions[i - 1] ?? 0))) {
      violations.push(
        broken(3, `the parts of transaction ${transaction} arrived out of order: ${revisions.join(", ")}`),
      );
    }
    const firstLost = rows.findIndex(({ status }) => status !== "success");
    if (firstLost >= 0 && rows.slice(firstLost).some(({ status }) => status === "success")) {
      violations.push(broken(3, `a part of transaction ${transaction} arrived after one that did not`));
    }
  }
  return [...violations, ...inOrder(wal, clients)];
}

/** Who began after another had committed arrives with it or after it; what was queued again has a new place. */
function inOrder(wal: WalEntry[], clients: ClientTransaction[]): Violation[] {
  const rows = new Map(wal.map((row) => [row.id, row]));
  const arrived = clients.filter(({ outcome }) => outcome === "committed").flatMap((client) => {
    const revisions = client.writes.flatMap(({ id }) =>
      rows.get(id)?.status === "success" && !rows.get(id)!.retry_count ? [rows.get(id)!.result_revision!] : []
    );
    return revisions.length
      ? [{ ...client, first: Math.min(...revisions), last: Math.max(...revisions) }]
      : [];
  });
  const violations: Violation[] = [];
  const byEnd = arrived.toSorted((a, b) => a.ended - b.ended);
  let latest = { last: 0, id: 0 };
  let at = 0;
  for (const client of arrived.toSorted((a, b) => a.began - b.began)) {
    for (; at < byEnd.length && byEnd[at].ended < client.began; at++) {
      if (byEnd[at].last > latest.last) latest = { last: byEnd[at].last, id: byEnd[at].writes[0].id };
    }
    if (client.first < latest.last) {
      violations.push(
        broken(
          3,
          `write ${
            client.writes[0].id
          } began after write ${latest.id} had committed, and arrived before it: ${client.first} < ${latest.last}`,
        ),
      );
    }
  }
  return violations;
}

/** Promise 4. */
export function etcdWins({ events, markers, wal }: Pick<Run, "events" | "markers" | "wal">): Violation[] {
  const batches = new Set(markers.filter(({ bump }) => !bump).map(({ revision }) => revision));
  const byKey = Map.groupBy(events, ({ key }) => key);
  const last = newest(wal);
  const rows = wal.filter(({ timeline }) => timeline === last);
  const violations: Violation[] = [];
  for (const row of rows.filter(({ status }) => status === "success")) {
    const since = unseen(row, byKey.get(row.key) ?? []).filter((event) =>
      event.mod_revision < row.result_revision!
    );
    const [first] = row.strict ? since : changedByOthers(row, since, batches);
    if (first && !(row.strict && row.revision === 0 && since.at(-1)!.type === "delete")) {
      const who = row.strict ? "the key" : "somebody else";
      violations.push(
        broken(
          4,
          `write ${row.id} of '${row.key}' stands on ${row.revision} and arrived at ${row.result_revision}, though ${who} changed at ${first.mod_revision}`,
        ),
      );
    }
    const before = (byKey.get(row.key) ?? []).findLast((event) => event.mod_revision < row.result_revision!);
    const found = before?.type === "put" ? before.mod_revision : 0;
    if (found !== row.expected_revision) {
      violations.push(
        broken(
          4,
          `write ${row.id} of '${row.key}' expected ${row.expected_revision} and arrived on ${found}`,
        ),
      );
    }
  }
  for (const [transaction, all] of Map.groupBy(rows, (row) => row.transaction)) {
    if (!all.some(({ status }) => status === "conflict")) continue;
    if (
      all.some(({ error_message }) =>
        /may have been applied|was replaced after|PostgreSQL lost commits/.test(error_message ?? "")
      )
    ) continue;
    const because = all.some((row) => {
      const since = unseen(row, byKey.get(row.key) ?? []);
      return (row.strict ? since : since.filter((event) => !batches.has(event.mod_revision))).length > 0 ||
        (row.strict && row.revision > 0 &&
          !(byKey.get(row.key) ?? []).some((event) => event.mod_revision === row.revision)) ||
        (row.strict && row.revision === 0 && (byKey.get(row.key) ?? []).length > 0);
    });
    if (!because) {
      violations.push(
        broken(
          4,
          `transaction ${transaction} says conflict, and nobody in etcd changed one of its keys: "Writers in SQL never conflict with one another"`,
        ),
      );
    }
  }
  return violations;
}

/** The key's events that the writer had not seen. */
function unseen(row: WalEntry, events: Happened[]): Happened[] {
  const seen = row.revision > 0 ? row.revision : row.seen_revision;
  return events.filter((event) => event.mod_revision > seen);
}

/** Events of others, but for a key that they created and deleted again: absent is absent. */
function changedByOthers(row: WalEntry, since: Happened[], batches: Set<number>): Happened[] {
  const foreign: Happened[] = [];
  let absent = row.revision === 0;
  /** The others' events since the key was absent. */
  let open: Happened[] | undefined;
  for (const event of since) {
    if (batches.has(event.mod_revision)) {
      if (open) foreign.push(...open);
      open = undefined;
      absent = event.type === "delete";
      continue;
    }
    if (absent) open ??= [];
    (open ?? foreign).push(event);
    absent = event.type === "delete";
    if (absent && open) open = undefined;
  }
  return [...foreign, ...open ?? []];
}

/** Promise 5: what a client wrote is what etcd has, and what etcd has is in the right column. */
export function lossless(
  { events, snapshots, wal, clients }: Pick<Run, "events" | "snapshots" | "wal" | "clients">,
): Violation[] {
  const violations: Violation[] = [];
  const rows = new Map(wal.map((row) => [row.id, row]));
  const at = new Map(events.map((event) => [`${event.mod_revision} ${event.key}`, event]));
  const committed = clients.filter(({ outcome }) => outcome === "committed");
  for (const { id, key, value } of committed.flatMap(({ writes }) => writes)) {
    const row = rows.get(id);
    if (row?.status !== "success") continue;
    if (row.key !== key) {
      violations.push(broken(5, `write ${id} was of key '${key}', its row is of '${row.key}'`));
    }
    const event = at.get(`${row.result_revision} ${key}`);
    if (event?.type === "put" && value && !event.value.equals(value)) {
      violations.push(broken(5, `write ${id} of '${key}' has other bytes in etcd than its writer gave`));
    }
  }
  for (const row of snapshots.at(-1)?.rows ?? []) {
    const bytes = bytesOf(row);
    if (!bytes) {
      violations.push(broken(5, `row '${row.key}' has both of value and value_bytes, or none`));
    } else if (isText(bytes) !== (row.value !== null)) {
      violations.push(broken(5, `the value of '${row.key}' is in the wrong column`));
    }
  }
  return violations;
}

function isText(bytes: Buffer): boolean {
  try {
    return !new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0");
  } catch {
    return false;
  }
}

/** Promise 6, as both sides show it. */
export function oneWriter({ markers, moves = [] }: Pick<Run, "markers" | "moves">): Violation[] {
  return [...oneWriterInEtcd(markers), ...oneWriterInPostgres(moves)];
}

/**
 * The epoch only rises, one epoch has one holder, and only the holder's own sessions move the row. A holder names them
 * within a second; of one that did not live so long only the first is known, and it is not judged.
 */
function oneWriterInPostgres(moves: Move[]): Violation[] {
  const violations: Violation[] = [];
  const sessions = new Map<string | null, Set<number>>();
  for (const { holder, pids } of moves) {
    sessions.set(holder, (sessions.get(holder) ?? new Set()).union(new Set(pids)));
  }
  moves.slice(1).forEach((move, i) => {
    const before = moves[i];
    if (move.fault) return;
    if (move.epoch < before.epoch) {
      violations.push(broken(6, `in PostgreSQL epoch ${move.epoch} came after epoch ${before.epoch}`));
    }
    if (move.epoch === before.epoch && move.holder && before.holder && move.holder !== before.holder) {
      violations.push(broken(6, `in PostgreSQL two holders had epoch ${move.epoch}`));
    }
    const moved = (["state", "timeline", "revision", "batch"] as const)
      .filter((what) => move[what] !== before[what]);
    const own = sessions.get(move.holder)!;
    if (moved.length === 0 || own.has(move.pid) || (own.size < 2 && move.holder !== null)) return;
    const what = moved.map((name) => `${name} from ${before[name]} to ${move[name]}`).join(", ");
    violations.push(
      broken(6, `session ${move.pid} moved ${what}, and is none of the holder's (epoch ${move.epoch})`),
    );
  });
  return violations;
}

/** Both times are cut to milliseconds. */
const CUT_MS = 2;

/**
 * Promise 7: who reads `fresh_at` = T in a whole mirror has all that etcd had acknowledged to anybody before T, by the
 * clock that PostgreSQL and the clients share. A mirror that is behind says so by an old `fresh_at`.
 */
export function freshOrNotReady(
  { snapshots, acknowledged = [] }: Pick<Run, "snapshots" | "acknowledged">,
): Violation[] {
  const violations: Violation[] = [];
  const timeline = Math.max(0, ...snapshots.map((snapshot) => snapshot.timeline));
  const claims = snapshots.filter((snapshot) =>
    snapshot.fresh_at && snapshot.timeline === timeline &&
    (snapshot.state === "streaming" || snapshot.state === "draining")
  );
  let at = 0;
  let due: Acknowledged = { revision: 0, at: 0 };
  for (const { fresh_at, revision } of claims.toSorted((a, b) => a.fresh_at! - b.fresh_at!)) {
    for (; at < acknowledged.length && acknowledged[at].at <= fresh_at! - CUT_MS; at++) {
      if (acknowledged[at].revision > due.revision) due = acknowledged[at];
    }
    if (revision >= due.revision) continue;
    const late = Math.round(fresh_at! - due.at);
    violations.push(
      broken(
        7,
        `the mirror stood at ${revision} and said it was fresh, ${late} ms after etcd had ${due.revision}`,
      ),
    );
  }
  return violations;
}

function oneWriterInEtcd(markers: MarkerPut[]): Violation[] {
  const violations: Violation[] = [];
  let leader = { epoch: 0, holder: "" };
  let batch = 0;
  for (const put of markers) {
    if (put.bump) {
      // a leader may bump its own: that is how it finds out whether etcd takes anything at all
      if (put.epoch < leader.epoch || (put.epoch === leader.epoch && put.holder !== leader.holder)) {
        violations.push(
          broken(6, `at ${put.revision} epoch ${put.epoch} took the place of epoch ${leader.epoch}`),
        );
      }
      leader = put;
      continue;
    }
    if (put.epoch !== leader.epoch || put.holder !== leader.holder) {
      violations.push(
        broken(
          6,
          `at ${put.revision} epoch ${put.epoch} wrote batch ${put.batch} in the place of epoch ${leader.epoch}`,
        ),
      );
    }
    if (put.batch <= batch) {
      violations.push(broken(6, `at ${put.revision} batch ${put.batch} came after batch ${batch}`));
    }
    batch = put.batch;
  }
  return violations;
}
