/** The stream's row: who is the writer, where the stream stands. Every write of the program is fenced by it. */
import type { Asked } from "../control.ts";
import type { Probe } from "../core/plan.ts";
import { Fatal, LostPlace } from "../errors.ts";
import type { State } from "../machine.ts";
import type { Session } from "./client.ts";

export interface StreamRow {
  stream: string;
  streamId: string;
  state: State;
  /** The checkpoint; during a scan the watch's position. */
  revision: number;
  timeline: number;
  clusterId: string | null;
  epoch: number;
  scanCursor: Uint8Array | null;
  scanRevision: number;
  batchId: number;
  batchHolder: string | null;
  batchRows: number[];
  aheadId: number | null;
  aheadRows: number[];
  markerRevision: number;
  probe: Probe | null;
}

const COLUMNS = `stream, stream_id, state, revision, timeline, cluster_id, epoch, scan_cursor, scan_revision,
  batch_id, batch_holder, batch_rows, ahead_id, ahead_rows, marker_revision, probe_key, probe_revision`;

interface RawRow {
  stream: string;
  stream_id: string;
  state: State;
  revision: number;
  timeline: number;
  cluster_id: string | null;
  epoch: number;
  scan_cursor: Uint8Array | null;
  scan_revision: number;
  batch_id: number;
  batch_holder: string | null;
  batch_rows: number[];
  ahead_id: number | null;
  ahead_rows: number[];
  marker_revision: number;
  probe_key: string | null;
  probe_revision: number | null;
}

function streamRow(raw: RawRow): StreamRow {
  return {
    stream: raw.stream,
    streamId: raw.stream_id,
    state: raw.state,
    revision: raw.revision,
    timeline: raw.timeline,
    clusterId: raw.cluster_id,
    epoch: raw.epoch,
    scanCursor: raw.scan_cursor,
    scanRevision: raw.scan_revision,
    batchId: raw.batch_id,
    batchHolder: raw.batch_holder,
    batchRows: raw.batch_rows,
    aheadId: raw.ahead_id,
    aheadRows: raw.ahead_rows,
    markerRevision: raw.marker_revision,
    probe: raw.probe_key === null ? null : { key: raw.probe_key, revision: raw.probe_revision! },
  };
}

export interface StreamIdentity {
  stream: string;
  /** As bytes, and as SQL writes it. */
  prefix: Uint8Array;
  prefixText: string;
  /** The prefix, where it is text by itself. */
  plainPrefix: string | null;
}

/**
 * Makes the stream's row, or checks that it is the one asked for.
 * @throws {Fatal} where the schema holds another stream, or the stream another prefix
 */
export async function ensureStream(session: Session, wanted: StreamIdentity): Promise<void> {
  await session.run(
    "make-stream",
    `with made as (insert into etcd_sync_state (stream, prefix) values ($1, $2) on conflict do nothing returning true)
     insert into etcd_sync_gate (prefix, prefix_text) select $3, $4 from made on conflict do nothing`,
    [wanted.stream, wanted.prefixText, wanted.prefix, wanted.plainPrefix],
  );
  await checkStream(session, wanted, "start");
}

/**
 * Checks that the schema's stream is the one asked for, to be started, say (`doing`).
 * @throws {Fatal} where it is not
 */
export async function checkStream(session: Session, wanted: StreamIdentity, doing: string): Promise<void> {
  const [found] = await session.run<{ stream: string; prefix: string }>(
    "find-stream",
    "select stream, prefix from etcd_sync_state",
  );
  if (found.stream !== wanted.stream) {
    throw new Fatal(
      "EPS-104",
      `Cannot ${doing} stream '${wanted.stream}': the schema holds stream '${found.stream}'; give each stream a schema of its own (--schema)`,
    );
  }
  if (found.prefix !== wanted.prefixText) {
    throw new Fatal(
      "EPS-104",
      `Cannot ${doing} stream '${wanted.stream}' on prefix '${wanted.prefixText}': it mirrors prefix '${found.prefix}'; ` +
        "give that prefix, or another --stream and --schema",
    );
  }
}

export async function readStream(session: Session): Promise<StreamRow> {
  const [row] = await session.run<RawRow>("read-stream", `select ${COLUMNS} from etcd_sync_state`);
  return streamRow(row);
}

export interface Place {
  epoch: number;
  holder: string;
}

/** A lease that ends later than any that is given is of a clock that was put back since; who holds it and lives renews it. */
const RUN_OUT = "lease_until not between clock_timestamp() and clock_timestamp() + interval '10 seconds'";

/**
 * Takes the writer's place where it is free: its lease has run out, or this session got the lock that the holder's
 * session would have. null: it is held.
 */
export async function takePlace(session: Session, holder: string, freed: boolean): Promise<StreamRow | null> {
  const [row] = await session.run<RawRow>(
    "take-place",
    `update etcd_sync_state set epoch = epoch + 1, holder = $1, holder_pids = array[pg_backend_pid()],
       lease_until = clock_timestamp() + interval '5 seconds', updated_at = clock_timestamp()
     where stream in (select stream from etcd_sync_state for update skip locked) -- a frozen holder can have it locked
       and ($2 or holder is null or lease_until is null or ${RUN_OUT})
     returning ${COLUMNS}`,
    [holder, freed],
  );
  return row ? streamRow(row) : null;
}

/** Whether an instance holds the place. */
export async function hasLeader(session: Session): Promise<boolean> {
  const [{ led }] = await session.run<{ led: boolean }>(
    "has-leader",
    `select holder is not null and not coalesce(${RUN_OUT}, true) as led from etcd_sync_state`,
  );
  return led;
}

/** The epoch must stand above the marker's before the marker is bumped. */
export async function raiseEpoch(session: Session, place: Place, epoch: number): Promise<void> {
  const rows = await session.run(
    "raise-epoch",
    "update etcd_sync_state set epoch = $3 where epoch = $1 and holder = $2 returning true",
    [place.epoch, place.holder, epoch],
  );
  expectOne(rows, place);
}

const ASKED = `clock_timestamp() as now, (select paused_at from etcd_sync_control) as "pausedAt",
  (select min(id) from etcd_sync_resync where finished_at is null) as resync`;

/**
 * Renews the lease, and says which sessions are the holder's. Returns the server's time, and what operators ask. A large
 * revision's commit keeps the state row locked for longer than a lease lasts. Nobody can take the place meanwhile (see
 * takePlace and endHolder), so while `committing` it is held without a renewal.
 */
export async function renewLease(
  session: Session,
  place: Place,
  pids: number[],
  committing: () => boolean,
): Promise<{ now: Date; asked: Asked }> {
  const values = [place.epoch, place.holder, pids];
  const renewed = await session.attempt<{ now: Date } & Asked>(
    "renew-lease",
    `update etcd_sync_state set lease_until = clock_timestamp() + interval '5 seconds', holder_pids = $3
     where epoch = $1 and holder = $2 returning ${ASKED}`,
    values,
  );
  if (!renewed && !committing()) return await renewLease(session, place, pids, committing);
  const rows = renewed ?? await session.run<{ now: Date } & Asked>(
    "hold-lease",
    `select ${ASKED} from etcd_sync_state where epoch = $1 and holder = $2`,
    values.slice(0, 2),
  );
  expectOne(rows, place);
  const [{ now, ...asked }] = rows;
  return { now, asked };
}

/** Remembers which cluster this is. */
export async function setCluster(session: Session, place: Place, clusterId: string): Promise<void> {
  const rows = await session.run(
    "set-cluster",
    "update etcd_sync_state set cluster_id = $3 where epoch = $1 and holder = $2 returning true",
    [place.epoch, place.holder, clusterId],
  );
  expectOne(rows, place);
}

/** Leaves the place free. */
export async function leavePlace(session: Session, place: Place): Promise<void> {
  await session.run(
    "leave-place",
    "update etcd_sync_state set holder = null, holder_pids = '{}', lease_until = null where epoch = $1 and holder = $2",
    [place.epoch, place.holder],
  );
}

/**
 * The session lock. It is held as long as the session lives, so that a crash frees the place at once; nothing is safe
 * because of it.
 */
export async function tryLock(session: Session, streamId: string): Promise<boolean> {
  const [{ got }] = await session.run<{ got: boolean }>(
    "try-lock",
    "select pg_try_advisory_lock(hashtext('etcd-pg-sync stream'), hashtext($1)) as got",
    [streamId],
  );
  return got;
}

/** Shows this session as an instance's, as long as it lives, see sql/010_status.sql. */
export async function showInstance(session: Session, streamId: string): Promise<void> {
  await session.run(
    "show-instance",
    "select pg_advisory_lock_shared(hashtext('etcd-pg-sync instance'), hashtext($1))",
    [streamId],
  );
}

/**
 * Ends the sessions of a holder whose lease has run out, or whose own session is gone (`freed`): one that waits for a
 * lock does not notice that its client has died, and keeps the state row locked. A commit that is at work, and waits
 * for nobody, comes to its end by itself; and who has said something just now is not frozen: it may stand between a
 * statement and its commit. Pids come again, so only sessions of this program are ended.
 */
export async function endHolder(session: Session, freed: boolean): Promise<void> {
  await session.run(
    "end-holder",
    `select pg_terminate_backend(a.pid) from etcd_sync_state s join pg_stat_activity a on a.pid = any (s.holder_pids)
     where ($1 or ${RUN_OUT} and not exists (select from pg_stat_activity w
         where w.pid = any (s.holder_pids) and w.application_name = a.application_name and w.datname = a.datname
           and (w.state = 'active' and coalesce(w.wait_event_type, '') not in ('Client', 'Lock')
             or w.state_change > clock_timestamp() - interval '2 seconds')))
       and a.application_name = current_setting('application_name')
       and a.datname = current_database() and a.pid <> pg_backend_pid()`,
    [freed],
  );
}

/** An update of the state row that found no row: another leader, or a commit of ours that arrived late. */
export function expectOne(rows: unknown[], place: Place): void {
  if (rows.length === 0) {
    throw new LostPlace(`epoch ${place.epoch} is no longer the writer, or the row has moved on`);
  }
}

/** Writes an audit row. */
export async function writeEvent(
  session: Session,
  kind: string,
  timeline: number,
  { key = null, revision = null, detail = {} }: {
    key?: string | null;
    revision?: number | null;
    detail?: object;
  } = {},
): Promise<void> {
  await session.run(
    "write-event",
    "insert into etcd_sync_event (kind, key, timeline, revision, detail) values ($1, $2, $3, $4, $5)",
    [kind, key, timeline, revision, detail],
  );
}

/** Leaves a whole state for a scan, or starts a scan again: the high-water marks stay, the cursor goes. */
export async function startScanAgain(
  session: Session,
  place: Place,
  from: StreamRow,
  to: State,
  outcome: string,
): Promise<void> {
  await session.transaction(async () => {
    const rows = await session.run(
      "start-scan-again",
      `update etcd_sync_state set state = $3, scan_cursor = null, scan_revision = case when state = $3 then scan_revision else 0 end,
         updated_at = clock_timestamp()
       where epoch = $1 and holder = $2 and state = $4 and timeline = $5 and revision = $6 returning true`,
      [place.epoch, place.holder, to, from.state, from.timeline, from.revision],
    );
    expectOne(rows, place);
    if (from.state !== to) {
      // the lower end of the gap: here the mirror was whole
      await writeEvent(session, "scan-started", from.timeline, {
        revision: from.revision,
        detail: { outcome, state: to },
      });
    }
  });
}

/** etcd's history is another one: revisions start anew, in the next timeline. */
export async function startTimeline(
  session: Session,
  place: Place,
  from: StreamRow,
  to: State,
  clusterId: string,
): Promise<void> {
  await session.transaction(async () => {
    // on disk before the marker is bumped: the old timeline would not know the new marker as another history's
    await session.run("flush-now", "set local synchronous_commit to on");
    const rows = await session.run(
      "start-timeline",
      `update etcd_sync_state set state = $3, timeline = timeline + 1, cluster_id = $4, revision = 0, scan_revision = 0,
         scan_cursor = null, marker_revision = 0, probe_key = null, probe_revision = null, history_from = null,
         updated_at = clock_timestamp()
       where epoch = $1 and holder = $2 and timeline = $5 returning true`,
      [place.epoch, place.holder, to, clusterId, from.timeline],
    );
    expectOne(rows, place);
    await session.run("gate-timeline", "update etcd_sync_gate set timeline = $1, seen_revision = 0", [
      from.timeline + 1,
    ]);
    if (from.state === "streaming" || from.state === "draining") {
      await writeEvent(session, "scan-started", from.timeline, {
        revision: from.revision,
        detail: { outcome: "history-replaced", state: to },
      });
    }
    await writeEvent(session, "history-replaced", from.timeline + 1, {
      detail: {
        old_cluster_id: from.clusterId,
        cluster_id: clusterId,
        old_timeline: from.timeline,
        old_revision: from.revision,
      },
    });
  });
}

/** What writers are held to. */
export interface Gate {
  maxTxnRows: number;
  maxTxnBytes: number;
  refuseOversize: boolean;
  maxDeletes: number;
  oneWay: boolean;
}

/** Written only where it changed. */
export async function setGate(session: Session, gate: Gate): Promise<void> {
  await session.run(
    "set-gate",
    `update etcd_sync_gate set max_txn_rows = $1, max_txn_bytes = $2, refuse_oversize = $3, max_deletes = $4, one_way = $5
     where (max_txn_rows, max_txn_bytes, refuse_oversize, max_deletes, one_way) is distinct from ($1, $2, $3, $4, $5)`,
    [gate.maxTxnRows, gate.maxTxnBytes, gate.refuseOversize, gate.maxDeletes, gate.oneWay],
  );
}

/** Of a stream that has become one-way: nothing is drained any more, and the row says so. */
export async function stopDraining(session: Session, place: Place, from: State, to: State): Promise<void> {
  const rows = await session.run(
    "stop-draining",
    `update etcd_sync_state set state = $4, updated_at = clock_timestamp()
     where epoch = $1 and holder = $2 and state = $3 returning true`,
    [place.epoch, place.holder, from, to],
  );
  expectOne(rows, place);
}
