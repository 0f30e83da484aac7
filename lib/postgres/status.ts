/** What PostgreSQL tells of a stream, also to a role that may call nothing but etcd_sync_status(), and where nothing is installed. */
import { secondsBetween, type StreamReport } from "../core/status.ts";
import { codeOf, Fatal } from "../errors.ts";
import { quoteIdentifier, type Session } from "./client.ts";

/** The server's version, as `15.6`. */
export async function postgresVersion(session: Session): Promise<string> {
  const [{ version }] = await session.run<{ version: string }>(
    "status-version",
    "select split_part(current_setting('server_version'), ' ', 1) as version",
  );
  return version;
}

/**
 * @throws {Fatal} where the schema holds nothing, or what an older program installed
 */
export async function readStatus(session: Session, schema: string): Promise<StreamReport> {
  await checkInstalled(session, schema);
  // in a transaction a lock of somebody else is an error, and not waited for
  const [{ report }] = await session.transaction(() =>
    session.run<{ report: StreamReport }>(
      "status",
      `select ${quoteIdentifier(schema)}.etcd_sync_status() as report`,
    )
  ).catch((error) => whoLocks(session, error));
  return withAges(report);
}

/** @throws the error, with the sessions that have the locks where there are such */
async function whoLocks(session: Session, error: unknown): Promise<never> {
  if (codeOf(error) !== "EPS-403") throw error;
  const pids = (await session.blockers()).map(({ pid }) => pid);
  if (pids.length === 0) throw error;
  throw new Fatal("EPS-403", `locks on the stream's tables stand in the way, of session ${pids.join(", ")}`);
}

/** By the catalogs, which any role may read. */
async function checkInstalled(session: Session, schema: string): Promise<void> {
  const [found] = await session.run<{ status: boolean; installed: boolean }>(
    "status-installed",
    `select exists (select from pg_proc p where p.pronamespace = n.oid and p.proname = 'etcd_sync_status') as status,
       exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'etcd_sync_migration') as installed
     from (select (select oid from pg_namespace where nspname = $1) as oid) n`,
    [schema],
  );
  if (found.status) return;
  if (found.installed) {
    throw new Fatal(
      "EPS-102",
      `Cannot show schema '${schema}': an older version installed it; 'etcd-pg-sync start' of this version upgrades it`,
    );
  }
  throw new Fatal("EPS-101", `Schema '${schema}' holds no stream`);
}

/** By PostgreSQL's clock, as its times are. */
function withAges(report: StreamReport): StreamReport {
  const { now, stream, instances, wal } = report;
  if (stream) stream.fresh_age = secondsBetween(stream.fresh_at, now);
  for (const instance of instances) instance.silent_for = secondsBetween(instance.last_heard, now);
  if (wal.oldest) wal.oldest.age = secondsBetween(wal.oldest.since, now)!;
  return report;
}
