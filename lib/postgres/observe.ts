/** The stream as PostgreSQL has it, for metrics: any instance may look. What it costs does not grow with the WAL. */
import type { State } from "../machine.ts";
import { type PostgresOptions, Session } from "./client.ts";

/** So many waiting rows and transactions are counted, and no more. */
export const COUNTED = 10_000;

export interface Observation {
  state: State;
  revision: number;
  timeline: number;
  epoch: number;
  /** Age of the proof that the mirror is fresh, in seconds; null: there is none. */
  freshAge: number | null;
  /** Waiting writes from SQL, `COUNTED` at most. */
  transactions: number;
  rows: number;
  /** Age of the transaction whose turn it is, in seconds; 0: none waits. */
  oldestAge: number;
  /** Rows that may wait, and those that writers may still queue; null: no limit. */
  limit: number | null;
  room: number | null;
  paused: boolean;
  /** When all of the mirror was last compared with etcd, in seconds since 1970; before the first: its installation. */
  verifiedAt: number;
  /** Keys in which the sides differed then, and were left so. */
  differences: number;
}

/** A session that looks. A bitmap would be made of all of an index before the first row is counted. */
export async function openObserver(options: PostgresOptions): Promise<Session> {
  await using opened = new AsyncDisposableStack();
  const session = opened.use(await Session.open(options));
  await session.script("set enable_bitmapscan to off");
  opened.move();
  return session;
}

/** @throws the error of pg or of the system */
export async function observe(session: Session): Promise<Observation> {
  const [row] = await session.run<Observation>("observe-stream", OBSERVE, [COUNTED]);
  return row;
}

/**
 * Differences of another timeline are none: a scan has compared everything since. Rows are counted by their headers, the oldest first. A transaction that is sent in parts is counted from where it was
 * cut, by the primary key (the casts keep the planner from its other index, which would read the parts that were sent).
 */
const OBSERVE = `
  with head as (
    select t.seq, t.ts from etcd_wal_tx t order by t.seq limit 1
  )
  select s.state, s.revision, s.timeline, s.epoch,
    extract(epoch from clock_timestamp() - s.fresh_at)::float8 as "freshAge",
    (select count(*) from (select from etcd_wal_tx t limit $1) c) as transactions,
    (select count(*) from (
      select from (select t.txid, t.ts, t.seq, t.split_id from etcd_wal_tx t order by t.seq limit $1) t
      cross join lateral (
        (select from etcd_wal w
         where t.split_id is null and w.txid = t.txid and w.ts = t.ts and w.status = 'pending' limit $1)
        union all
        (select from etcd_wal w
         where w.id between t.split_id and t.seq and w.txid::text = t.txid::text and w.ts = t.ts and w.status = 'pending' limit $1)
      ) r limit $1
    ) c) as rows,
    coalesce((select extract(epoch from clock_timestamp() - h.ts) from head h), 0)::float8 as "oldestAge",
    g.wal_limit as limit,
    case when g.wal_limit is not null then
      greatest(g.refuse_after - coalesce(pg_sequence_last_value('etcd_wal_id_seq'), 0), 0) end as room,
    (select c.paused_at is not null from etcd_sync_control c) as paused,
    extract(epoch from coalesce(v.verified_at, v.installed_at))::float8 as "verifiedAt",
    case when v.timeline <> s.timeline then 0 else coalesce(v.missing + v.extra + v.different, 0) end as differences
  from etcd_sync_state s, etcd_sync_gate g, etcd_sync_verify v`;
