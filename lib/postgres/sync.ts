/** What one run of `sync` waits for, and what became of it. */
import type { State } from "../machine.ts";
import type { Session } from "./client.ts";

/** What waits when a run begins. */
export interface Waiting {
  transactions: number;
  /** The last ticket that was drawn. */
  ticket: number;
  /** The last row of the audit. */
  event: number;
  timeline: number;
}

export async function readWaiting(session: Session): Promise<Waiting> {
  const [found] = await session.run<Waiting>(
    "sync-waiting",
    `select (select count(*) from etcd_wal_tx) as transactions,
       coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0) as ticket,
       (select coalesce(max(id), 0) from etcd_sync_event) as event, timeline
     from etcd_sync_state`,
  );
  return found;
}

/** Rows of the WAL that wait, in transactions; counts all of them. */
export async function readPending(session: Session): Promise<{ transactions: number; rows: number }> {
  const [found] = await session.run<{ transactions: number; rows: number }>(
    "sync-pending",
    `select (select count(*) from etcd_wal_tx) as transactions,
       (select count(*) from etcd_wal_tx t join etcd_wal w on w.txid = t.txid and w.ts = t.ts and w.status = 'pending') as rows`,
  );
  return found;
}

export interface Standing {
  state: State;
  revision: number;
  timeline: number;
  /** Revision of the newest write to etcd that is known to be ours. */
  markerRevision: number;
  /** Every transaction that had drawn a ticket up to the one given is settled; or the stream takes no writes. */
  settled: boolean;
  /** null: not paused. */
  pausedAt: Date | null;
}

export async function readStanding(session: Session, ticket: number): Promise<Standing> {
  const [found] = await session.run<Standing>(
    "sync-standing",
    `select s.state, s.revision, s.timeline, s.marker_revision as "markerRevision",
       g.one_way or not exists (select from etcd_wal_tx t where t.seq <= $1) as settled,
       c.paused_at as "pausedAt"
     from etcd_sync_state s cross join etcd_sync_gate g cross join etcd_sync_control c`,
    [ticket],
  );
  return found;
}

/** A transaction from SQL that did not arrive. */
export interface Loss {
  kind: "conflict" | "failed";
  key: string;
  revision: number | null;
  wal_id: number;
  rows: number;
  message: string;
}

/** Those that were settled after `event`, the first ones; and how many there are. */
export async function readLosses(
  session: Session,
  event: number,
  show: number,
): Promise<{ losses: Loss[]; count: number }> {
  const where = "from etcd_sync_event where id > $1 and kind in ('conflict', 'failed')";
  const losses = await session.run<Loss>(
    "sync-losses",
    `select kind, key, revision, (detail ->> 'wal_id')::bigint as wal_id, (detail ->> 'rows')::bigint as rows,
       detail ->> 'message' as message ${where} order by id limit $2`,
    [event, show],
  );
  const [{ count }] = await session.run<{ count: number }>(
    "sync-losses-count",
    `select count(*) as count ${where}`,
    [event],
  );
  return { losses, count };
}
