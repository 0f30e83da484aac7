/** The schema: numbered migrations, applied at start by whoever comes first. */
import state from "../../sql/001_state.sql" with { type: "text" };
import mirror from "../../sql/002_mirror.sql" with { type: "text" };
import wal from "../../sql/003_wal.sql" with { type: "text" };
import view from "../../sql/004_view.sql" with { type: "text" };
import read from "../../sql/005_read.sql" with { type: "text" };
import write from "../../sql/006_write.sql" with { type: "text" };
import drain from "../../sql/007_drain.sql" with { type: "text" };
import keep from "../../sql/008_keep.sql" with { type: "text" };
import control from "../../sql/009_control.sql" with { type: "text" };
import { Fatal } from "../errors.ts";
import { quoteIdentifier, type Session } from "./client.ts";

const MIGRATIONS: readonly string[] = [state, mirror, wal, view, read, write, drain, keep, control];

/** The oldest PostgreSQL that is supported, as `server_version_num`. */
const OLDEST_SERVER = 140000;

/**
 * Brings the schema up to this program's version. Any number may call it at once: one installs, the others wait.
 * @throws {Fatal} where the server, its encoding or the schema's version is not supported
 */
export async function migrate(session: Session, schema: string): Promise<{ applied: number }> {
  await checkServer(session);
  if (await version(session, schema) === MIGRATIONS.length) return { applied: 0 };
  return await session.transaction(async () => {
    await session.script("set local lock_timeout to 0"); // others install, and are waited for
    await session.run(
      "migrate-lock",
      "select pg_advisory_xact_lock(hashtext('etcd-pg-sync migrate'), hashtext($1))",
      [schema],
    );
    const from = await version(session, schema);
    if (from < 0) await session.script(`create schema ${quoteIdentifier(schema)}`);
    await session.script(
      "create table if not exists etcd_sync_migration (number integer primary key, applied_at timestamptz not null default now())",
    );
    for (let number = Math.max(from, 0) + 1; number <= MIGRATIONS.length; number++) {
      await session.script(`insert into etcd_sync_migration (number) values (${number})`);
      await session.script(MIGRATIONS[number - 1].replaceAll("@schema@", () => quoteIdentifier(schema)));
    }
    return { applied: MIGRATIONS.length - Math.max(from, 0) };
  }, { patient: true });
}

/**
 * Whether the schema holds what this program works with; false: nothing is installed.
 * @throws {Fatal} where it is of another version
 */
export async function isInstalled(session: Session, schema: string): Promise<boolean> {
  await checkServer(session);
  const number = await version(session, schema);
  if (number > 0 && number < MIGRATIONS.length) {
    throw new Fatal(
      "configuration",
      `Cannot use schema '${schema}': its version is ${number}, this program needs ${MIGRATIONS.length}; 'etcd-pg-sync start' upgrades it`,
    );
  }
  return number > 0;
}

async function checkServer(session: Session): Promise<void> {
  const [server] = await session.run<{ number: number; version: string; encoding: string }>(
    "check-server",
    `select current_setting('server_version_num')::integer as number, current_setting('server_version') as version,
       current_setting('server_encoding') as encoding`,
  );
  if (server.number < OLDEST_SERVER) {
    throw new Fatal(
      "configuration",
      `Cannot use PostgreSQL '${server.version}': the oldest supported version is 14`,
    );
  }
  if (server.encoding !== "UTF8") {
    throw new Fatal(
      "configuration",
      `Cannot use this database: its encoding must be 'UTF8', it is '${server.encoding}'`,
    );
  }
}

/** -1: no such schema; 0: nothing installed. */
async function version(session: Session, schema: string): Promise<number> {
  const [found] = await session.run<{ there: boolean; installed: boolean }>(
    "schema-there",
    `select exists (select from pg_namespace where nspname = $1) as there,
       exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = $1 and c.relname = 'etcd_sync_migration') as installed`,
    [schema],
  );
  if (!found.installed) return found.there ? 0 : -1;
  const [{ number }] = await session.run<{ number: number }>(
    "schema-version",
    "select coalesce(max(number), 0) as number from etcd_sync_migration",
  );
  if (number > MIGRATIONS.length) {
    throw new Fatal(
      "configuration",
      `Cannot use schema '${schema}': its version is ${number}, this program knows versions up to ${MIGRATIONS.length}`,
    );
  }
  return number;
}
