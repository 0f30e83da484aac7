/** The schema without the program: what a test by plain SQL needs. */

import assert from "node:assert/strict";
import { asText, keyBytes, keyText } from "../../lib/core/codec.ts";
import { Session as ProgramSession } from "../../lib/postgres/client.ts";
import { migrate } from "../../lib/postgres/migrate.ts";
import { ensureStream } from "../../lib/postgres/state.ts";
import type { Row, Session, World } from "./world.ts";

/** Deno's sanitizers. */
export const strict = { sanitizeOps: true, sanitizeResources: true };

export interface Installation {
  schema?: string;
  /** As SQL writes it; "/" if not given. */
  prefix?: string;
}

/** A session as the program has them, on the schema. */
export function programSession(world: World, schema = world.schema): Promise<ProgramSession> {
  return ProgramSession.open({ dsn: world.postgresDsn, schema, applicationName: "etcd-pg-sync test" });
}

/** Installs the schema and makes the stream's row, as the program does at its start. */
export async function installed(world: World, { schema, prefix = "/" }: Installation = {}): Promise<void> {
  await using session = await programSession(world, schema);
  await migrate(session, schema ?? world.schema);
  const bytes = keyBytes(prefix);
  await ensureStream(session, {
    stream: "default",
    prefix: bytes,
    prefixText: keyText(bytes),
    plainPrefix: asText(bytes) ?? null,
  });
}

/** Writes a row of the mirror as the program would: etcd has this key. */
export async function mirrored(
  world: World,
  key: string,
  value: string | Uint8Array,
  revision = 10,
  { lease = 0, timeline = 1 } = {},
): Promise<void> {
  const [text, bytes] = typeof value === "string" ? [value, null] : [null, value];
  await world.sql(
    `insert into etcd_kv (key, value, value_bytes, revision, create_revision, version, lease, timeline)
     values ($1, $2, $3, $4, $4, 1, $5, $6)`,
    [key, text, bytes, revision, lease, timeline],
  );
}

/** Sets columns of the writers' gate, such as `max_deletes = 3`. */
export async function setGate(world: World, set: string): Promise<void> {
  await world.sql(`update etcd_sync_gate set ${set}`);
}

/** The WAL's rows, oldest first, and of them these columns. */
export function wal(world: World, columns: string): Promise<Row[]> {
  return world.sql(`select ${columns} from etcd_wal order by id`);
}

/** One transaction in one session, committed at the end of `work`, rolled back where it throws. */
export async function transaction<T>(session: Pick<Session, "sql">, work: () => Promise<T>): Promise<T> {
  await session.sql("begin");
  try {
    const result = await work();
    await session.sql("commit");
    return result;
  } catch (error) {
    await session.sql("rollback").catch(() => {});
    throw error;
  }
}

/** Waits for an error of PostgreSQL with this SQLSTATE and, where given, this message. */
export async function refused(work: Promise<unknown>, code: string, message?: RegExp): Promise<void> {
  await assert.rejects(work, (error: Error & { code?: string }) => {
    assert.equal(error.code, code, error.message);
    if (message) assert.match(error.message, message);
    return true;
  });
}
