/** Retention and the WAL's limit, step by step. The SQL, and why it is right, is in sql/008_keep.sql. */
import type { Session } from "./client.ts";

/** Ages in milliseconds from which rows may go; null = never. */
export interface Retention {
  walMs: number | null;
  historyMs: number | null;
  eventMs: number | null;
}

/** Where the next step begins; null: this was the last. */
interface Step {
  next: number | null;
}

const WAL_ROWS = 2_000;
const EVENT_ROWS = 2_000;
const ARCHIVE_BLOCKS = 32;

const interval = (n: number) => `make_interval(secs => $${n}::float8 / 1000)`;

/** Whether this session is the one that keeps house: the first that asked, as long as it lives. */
export async function isKeeper(session: Session): Promise<boolean> {
  const [{ got }] = await session.run<{ got: boolean }>(
    "keeper-lock",
    `select pg_try_advisory_lock(hashtext('etcd-pg-sync keep'), hashtext(stream_id::text)) as got from etcd_sync_state`,
  );
  return got;
}

/**
 * Ends the session that keeps house where it has asked nothing for ten seconds: its program is frozen, or cut off. It asks
 * every second; one that was only slow begins again.
 */
export async function endFrozenKeeper(session: Session): Promise<void> {
  await session.run(
    "end-frozen-keeper",
    `select pg_terminate_backend(a.pid) from etcd_sync_state s
     join pg_locks l on l.locktype = 'advisory' and l.objsubid = 2 and l.granted
       and l.classid = hashtext('etcd-pg-sync keep')::oid and l.objid = hashtext(s.stream_id::text)::oid
       and l.database = (select oid from pg_database where datname = current_database())
     join pg_stat_activity a on a.pid = l.pid
     where a.state = 'idle' and a.state_change < clock_timestamp() - interval '10 seconds'
       and a.application_name = current_setting('application_name')`,
  );
}

/** Makes a mark, where the last one is older than `everyMs`, and looks which marks have been passed. */
export async function mark(session: Session, everyMs: number, historyMs: number | null): Promise<void> {
  await session.run("keep-mark", `select etcd_keep_mark(${interval(1)})`, [everyMs]);
  // a statement of its own: its snapshots are newer than the mark
  await session.run("keep-pass", "select etcd_keep_pass()");
  await session.run("keep-forget-marks", `select etcd_keep_forget_marks(${interval(1)})`, [historyMs]);
}

/** Settled rows. Conflicts and failures stay as long as the events that tell of them, at least as long as successes. */
export async function* trimWal(session: Session, { walMs, eventMs }: Retention): AsyncGenerator<void> {
  const lostMs = walMs === null || eventMs === null ? null : Math.max(walMs, eventMs);
  const step = (from: number) =>
    session.run<Step>(
      "keep-wal",
      `select _next as next from etcd_keep_wal(${interval(1)}, ${interval(2)}, $3, $4)`,
      [walMs, lostMs, from, WAL_ROWS],
    );
  yield* steps(step);
}

/** History: first its beginning moves, and is committed, then rows go. */
export async function* trimHistory(session: Session, { historyMs }: Retention): AsyncGenerator<void> {
  await session.run("keep-move-history", `select etcd_keep_move_history(${interval(1)})`, [historyMs]);
  yield* steps((block) =>
    session.run<Step>(
      "keep-archive",
      "select _next as next from etcd_keep_archive($1, $2)",
      [block, ARCHIVE_BLOCKS],
    )
  );
}

/** The audit. */
export async function* trimEvents(session: Session, { eventMs }: Retention): AsyncGenerator<void> {
  await session.run("keep-gaps", `select etcd_keep_gaps(${interval(1)})`, [eventMs]);
  yield* steps((from) =>
    session.run<Step>(
      "keep-events",
      `select _next as next from etcd_keep_events(${interval(1)}, $2, $3)`,
      [eventMs, from, EVENT_ROWS],
    )
  );
}

async function* steps(step: (from: number) => Promise<Step[]>): AsyncGenerator<void> {
  for (let next: number | null = 0; next !== null;) {
    const [found]: Step[] = await step(next);
    next = found.next;
    yield;
  }
}

/** Leaves the writers as many tickets as there is room; how many rows wait, at most (null: no limit). */
export async function roomForWriters(session: Session, limit: number | null): Promise<number | null> {
  const [{ waiting }] = await session.run<{ waiting: number | null }>(
    "keep-limit",
    "select etcd_keep_limit($1) as waiting",
    [limit],
  );
  return waiting;
}
