/** What people use instead, where it is installed. Each with the settings that are best for it. */
import { onPath } from "../lib/embedded/search.ts";
import type { Sync } from "./program.ts";

/**
 * pg_etcd, both ways by polling, as it is documented. It does not make its table; this is what its own migration has. It
 * logs a line for each event unless told otherwise.
 */
function pgEtcd(program: string, version: string): Sync {
  return {
    name: "pg_etcd",
    version,
    follows: true,
    command: ({ dsn, endpoint, prefix }) => ({
      program,
      args: [`--postgres-dsn=${dsn}`, `--etcd-dsn=etcd://${endpoint}${prefix}`, "--log-level=error"],
      env: {},
    }),
    schema: `create table etcd (
      ts timestamp with time zone not null default now(), key text not null, value text, revision bigint not null,
      tombstone boolean not null default false, primary key (key, revision));
      create index idx_etcd_ts on etcd (ts);
      create index idx_etcd_pending on etcd (key) where revision = -1;`,
    seen: "select from etcd where key = $1 and revision > 0",
    writtenBy: "select xmin::text as txid from etcd where key = $1 order by revision desc limit 1",
    write: `insert into etcd (key, value, revision) values ($1, $2, -1)
      on conflict (key, revision) do update set value = excluded.value, ts = current_timestamp`,
    writeMany: `insert into etcd (key, value, revision)
      select $1 || lpad(i::text, 8, '0'), rpad('', 128, 'v'), -1 from generate_series(1, $2) i`,
  };
}

/**
 * pg_etcd at its fastest for writes from SQL: it polls each millisecond, and follows another prefix. Where its own watch
 * brings a write back before it has noted it, it fails on its primary key, waits and writes again.
 */
function pgEtcdWriting(program: string, version: string): Sync {
  return {
    ...pgEtcd(program, version),
    name: "pg_etcd, writing only",
    follows: false,
    command: ({ dsn, endpoint }) => ({
      program,
      args: [
        `--postgres-dsn=${dsn}`,
        `--etcd-dsn=etcd://${endpoint}/none/`,
        "--log-level=error",
        "--polling-interval=1ms",
      ],
      env: {},
    }),
  };
}

/** etcd-postgresql-sync, one way; it mirrors the whole keyspace. Its schema is its own database/schema.sql. */
function etcdPostgresqlSync(program: string, version: string): Sync {
  return {
    name: "etcd-postgresql-sync",
    version,
    follows: true,
    schema: `create schema etcd;
      create table etcd.kv (key text not null primary key, value text not null);
      create table etcd.auth (commands text not null);`,
    command: ({ dsn, endpoint }) => ({
      program,
      args: [],
      env: { DATABASE_DSN: dsn, ETCD_ENDPOINTS: `http://${endpoint}` },
    }),
    seen: "select from etcd.kv where key = $1",
    writtenBy: "select xmin::text as txid from etcd.kv where key = $1",
  };
}

const PEERS: [name: string, ...ways: ((program: string, version: string) => Sync)[]][] = [
  ["pg_etcd", pgEtcd, pgEtcdWriting],
  ["etcd-postgresql-sync", etcdPostgresqlSync],
];

/** The peers on PATH, and the names of those that are not there. */
export async function findPeers(path: string[]): Promise<{ found: Sync[]; missing: string[] }> {
  const found: Sync[] = [];
  const missing: string[] = [];
  for (const [name, ...ways] of PEERS) {
    const program = await onPath(name, path);
    if (!program) missing.push(name);
    else {
      const version = await goVersion(program);
      found.push(...ways.map((way) => way(program, version)));
    }
  }
  return { found, missing };
}

/** What Go has built into every binary (debug/buildinfo): module version, commit, and Go's own version. */
async function goVersion(program: string): Promise<string> {
  const text = new TextDecoder("latin1").decode(await Deno.readFile(program));
  const [, version] = /\nmod\t\S+\t(\S+)/.exec(text) ?? [];
  const [, commit] = /\nbuild\tvcs\.revision=(\w{7})/.exec(text) ?? [];
  const at = text.indexOf("\xff Go buildinf:");
  const [go] = /go1[\d.]+/.exec(text.slice(at, at + 200)) ?? [];
  return [version, commit, go].filter((part) => part).join(", ") || "version unknown";
}
