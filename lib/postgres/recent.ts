/** What the status page reads beside the status: all by an index, and with a limit. */
import type { AuditEvent } from "../core/view.ts";
import type { Session } from "./client.ts";

/** The newest rows of the audit, newest first. @throws the error of pg or of the system */
export async function newestEvents(session: Session, limit: number): Promise<AuditEvent[]> {
  // in a transaction a lock of somebody else is an error, and not waited for
  return await session.transaction(() =>
    session.run<AuditEvent>(
      "newest-events",
      `select e.id, e.kind, e.key, e.revision, e.detail, to_json(e.ts) #>> '{}' as ts
       from etcd_sync_event e order by e.id desc limit $1`,
      [limit],
    )
  );
}

/** A revision of a key, as the page shows it. */
export interface KeyVersion {
  timeline: number;
  revision: number;
  version: number;
  lease: string;
  tombstone: boolean;
  /** Its beginning; bytes that are no text as `\x…`. */
  value: string | null;
  /** Of the whole value. */
  bytes: number | null;
  cut: boolean;
  ts: string;
}

/** So much of a value is shown, in characters; half as much in bytes. */
const SHOWN = 2_000;

/** The newest revisions of a key that were seen, newest first. @throws the error of pg or of the system */
export async function keyVersions(session: Session, key: string, limit: number): Promise<KeyVersion[]> {
  return await session.transaction(() =>
    session.run<KeyVersion>("key-versions", KEY_VERSIONS, [key, limit, SHOWN])
  );
}

/** A timeline at a time, so that the archive's primary key gives the newest first. */
const KEY_VERSIONS = `
  select v.timeline, v.revision, v.version, v.lease::text as lease, v.tombstone,
    coalesce(left(v.value, $3), '\\x' || encode(substr(v.value_bytes, 1, $3 / 2), 'hex')) as value,
    coalesce(octet_length(v.value), octet_length(v.value_bytes))::int as bytes,
    coalesce(length(v.value) > $3, octet_length(v.value_bytes) > $3 / 2, false) as cut,
    to_json(v.ts) #>> '{}' as ts
  from (
    select k.timeline, k.revision, k.version, k.lease, false as tombstone, k.value, k.value_bytes, k.ts
    from etcd_kv k where k.key = $1
    union all
    select a.* from etcd_sync_gate g
    cross join lateral generate_series(g.timeline, 1, -1) t(timeline)
    cross join lateral (
      select a.timeline, a.revision, a.version, a.lease, a.tombstone, a.value, a.value_bytes, a.ts
      from etcd_archive a where a.timeline = t.timeline and a.key = $1 order by a.revision desc limit $2
    ) a
    order by timeline desc, revision desc limit $2
  ) v
  order by v.timeline desc, v.revision desc`;

/** Keys that etcd has and that begin so, in order. @throws the error of pg or of the system */
export async function keysFrom(session: Session, prefix: string, limit: number): Promise<string[]> {
  const rows = await session.transaction(() =>
    session.run<{ key: string }>(
      "keys-from",
      `select k.key from etcd_kv k
       where k.key >= $1 and k.key <= $1 || repeat(chr(1114111), 625) and starts_with(k.key, $1)
       order by k.key limit $2`,
      [prefix, limit],
    )
  );
  return rows.map(({ key }) => key);
}
