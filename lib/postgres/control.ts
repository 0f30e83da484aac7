/** What operators ask of a stream, from outside of the instance that works. The SQL is in sql/009_control.sql. */
import type { Session } from "./client.ts";

/** false: it was paused before. */
export async function pauseStream(session: Session, reason: string | null): Promise<boolean> {
  const [{ changed }] = await session.run<{ changed: boolean }>("pause", "select etcd_pause($1) as changed", [
    reason,
  ]);
  return changed;
}

/** false: it was not paused. */
export async function resumeStream(session: Session): Promise<boolean> {
  const [{ changed }] = await session.run<{ changed: boolean }>("resume", "select etcd_resume() as changed");
  return changed;
}

/** Asks to compare the keys with a prefix again (null: all of them). Returns the request's id. */
export async function askResync(session: Session, prefix: string | null): Promise<number> {
  const [{ id }] = await session.run<{ id: number }>("ask-resync", "select etcd_resync($1) as id", [prefix]);
  return id;
}

export interface Resync {
  id: number;
  prefix: string;
  startedAt: Date | null;
  finishedAt: Date | null;
  result: Record<string, unknown> | null;
  error: string | null;
  /** Whether an instance holds the place, and will see to it. */
  attended: boolean;
  pausedAt: Date | null;
}

export async function readResync(session: Session, id: number): Promise<Resync> {
  const [row] = await session.run<Resync>(
    "read-resync",
    `select r.id, r.prefix, r.started_at as "startedAt", r.finished_at as "finishedAt", r.result, r.error,
       s.lease_until is not null and s.lease_until > clock_timestamp() as attended, c.paused_at as "pausedAt"
     from etcd_sync_resync r, etcd_sync_state s, etcd_sync_control c where r.id = $1`,
    [id],
  );
  return row;
}

/** Takes the request up; its prefix. */
export async function startResync(session: Session, id: number): Promise<string> {
  const [{ prefix }] = await session.run<{ prefix: string }>(
    "start-resync",
    "update etcd_sync_resync set started_at = clock_timestamp() where id = $1 returning prefix",
    [id],
  );
  return prefix;
}

/** Settles the request, with what was compared and repaired or with why it was given up. */
export async function finishResync(
  session: Session,
  id: number,
  { result, error }: { result: object | null; error: string | null },
): Promise<void> {
  await session.run(
    "finish-resync",
    `with done as (
       update etcd_sync_resync set finished_at = clock_timestamp(), result = $2, error = $3 where id = $1 returning prefix
     )
     insert into etcd_sync_event (kind, timeline, revision, detail)
     select 'resynced', s.timeline, s.revision,
       jsonb_strip_nulls(jsonb_build_object('id', $1::bigint, 'prefix', done.prefix, 'error', $3::text)) || coalesce($2::jsonb, '{}')
     from done, etcd_sync_state s`,
    [id, result, error],
  );
}
