/** What this user may do in PostgreSQL, found out without a write. */
import type { Session } from "./client.ts";

export interface PostgresRights {
  version: string;
  user: string;
  database: string;
  encoding: string;
  /** The schema is there, and who owns what is ours in it, where that is not (a role of) this user. */
  schemaThere: boolean;
  foreignOwner: string | null;
  /** Rights on the schema; on the database, where the schema is not there. */
  usage: boolean;
  create: boolean;
  /** Sees what others do: whose locks hold the mirror up. */
  seesOthers: boolean;
}

export async function readRights(session: Session, schema: string): Promise<PostgresRights> {
  const [row] = await session.run<PostgresRights>(
    "read-rights",
    `select current_setting('server_version') as version, current_user as "user", current_database() as database,
       current_setting('server_encoding') as encoding, n.oid is not null as "schemaThere",
       (select min(pg_get_userbyid(c.relowner)) from pg_class c
        where c.relnamespace = n.oid and starts_with(c.relname, 'etcd') and c.relkind in ('r', 'v', 'S')
          and not pg_has_role(c.relowner, 'usage')) as "foreignOwner",
       coalesce(has_schema_privilege(n.oid, 'usage'), true) as usage,
       coalesce(has_schema_privilege(n.oid, 'create'), has_database_privilege(current_database(), 'create')) as "create",
       pg_has_role('pg_read_all_stats', 'usage') as "seesOthers"
     from (values (1)) one left join pg_namespace n on n.nspname = $1`,
    [schema],
  );
  return row;
}

/** The stream that the schema holds; undefined: none. */
export async function installedStream(
  session: Session,
): Promise<{ stream: string; prefix: string; streamId: string } | undefined> {
  const [row] = await session.run<{ stream: string; prefix: string; streamId: string }>(
    "installed-stream",
    `select stream, prefix, stream_id as "streamId" from etcd_sync_state`,
  );
  return row;
}
