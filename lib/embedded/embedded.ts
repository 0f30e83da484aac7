/** `start --embedded`: a real PostgreSQL and a real etcd on loopback, that live as long as this process. */

import { join, resolve } from "node:path";
import { createRequire } from "node:module";
import { type Account, closedFolder, serverAccount } from "./account.ts";
import { endEtcdLeftover, type EtcdServer, startEtcd } from "./etcd.ts";
import { beside, findEtcd, findPostgres } from "./find.ts";
import { endPostgresLeftover, type PostgresServer, startPostgres } from "./postgres.ts";
import { defaultSearch, type Log, type Search } from "./search.ts";

export { type EtcdOptions, type EtcdServer, startEtcd } from "./etcd.ts";
export { findEtcd, findPostgres } from "./find.ts";
export { type PostgresOptions, type PostgresServer, startPostgres } from "./postgres.ts";
export { defaultSearch, type Log, type Search } from "./search.ts";

export interface EmbeddedOptions {
  /** Where the data stays between runs; a folder that is thrown away at the end if not given */
  dir?: string;
  log: Log;
  signal?: AbortSignal;
  /** How servers are sought */
  search?: Search;
  /** Settings of PostgreSQL and flags of etcd, for tests: `{ fsync: "off" }`, `["--unsafe-no-fsync"]` */
  settings?: Record<string, string>;
  etcdArgs?: string[];
}

export interface Embedded extends AsyncDisposable {
  postgresDsn: string;
  etcdDsn: string;
  postgresVersion: string;
  etcdVersion: string;
  dir: string;
  etcdctl: string | undefined;
  psql: string | undefined;
  postgres: PostgresServer;
  etcd: EtcdServer;
}

/** Starts both servers, and returns when both answer. They end with the result's disposal or with this process. */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const search = options.search ?? defaultSearch();
  const account = serverAccount();
  const bin = await findPostgres(search, options.log, account);
  const { etcd: binary, etcdctl } = await findEtcd(search, options.log);
  options.signal?.throwIfAborted();
  await using stack = new AsyncDisposableStack();
  const { dir, throwaway } = await claimDir(options.dir, account, stack);
  await endLeftovers(dir, options.log);
  const { postgres, etcd } = await startBoth(options, { bin, binary, dir, throwaway }, stack);
  const psql = await beside("psql", bin, search);
  const all = stack.move();
  return {
    postgresDsn: postgres.dsn,
    etcdDsn: etcd.dsn,
    postgresVersion: postgres.version,
    etcdVersion: etcd.version,
    dir,
    etcdctl,
    psql,
    postgres,
    etcd,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

interface Places {
  bin: string;
  binary: string;
  dir: string;
  throwaway: string | undefined;
}

/** Side by side; where one fails, the other is stopped too. */
async function startBoth(options: EmbeddedOptions, places: Places, stack: AsyncDisposableStack) {
  const { bin, binary, dir, throwaway } = places;
  const { settings, etcdArgs: args, signal } = options;
  const [postgres, etcd] = await Promise.allSettled([
    startPostgres({ bin, dir: join(dir, "postgres"), settings, throwaway, signal }),
    startEtcd({ binary, dir: join(dir, "etcd"), args, throwaway, signal }),
  ]);
  for (const server of [postgres, etcd]) if (server.status === "fulfilled") stack.use(server.value);
  if (postgres.status === "rejected") throw postgres.reason;
  if (etcd.status === "rejected") throw etcd.reason;
  return { postgres: postgres.value, etcd: etcd.value };
}

/** Makes the folder this run's own. */
async function claimDir(dir: string | undefined, account: Account | undefined, stack: AsyncDisposableStack) {
  const throwaway = dir === undefined ? await Deno.makeTempDir({ prefix: "etcd-pg-sync-" }) : undefined;
  const path = resolve(throwaway ?? dir!);
  await Deno.mkdir(path, { recursive: true });
  if (throwaway) {
    // The servers' supervisors remove it, and what they leave when a start fails is removed here
    stack.defer(() => Deno.remove(path, { recursive: true }).catch(() => {}));
    if (account) await Deno.chown(path, account.uid, account.gid);
  }
  await letEnter(path, account);
  stack.adopt(lockFile(join(path, "lock"), path), (lock) => lock.close());
  return { dir: path, throwaway };
}

/**
 * SQLite's lock on a file, as `Deno.FsFile.tryLock` is younger than Deno 2.6: atomic, and the system lets go of it when
 * this process ends, however it ends. By `require`, since a dependency's old @types/node does not know the module.
 */
function lockFile(file: string, dir: string): { exec(sql: string): void; close(): void } {
  const { DatabaseSync } = createRequire(import.meta.url)("node:sqlite");
  const lock = new DatabaseSync(file);
  try {
    lock.exec("pragma journal_mode = memory; begin exclusive");
    return lock;
  } catch (error) {
    lock.close();
    if ((error as Error).message !== "database is locked") throw error;
    throw new Error(`Cannot start embedded servers: folder '${dir}' is in use by another run`);
  }
}

/** The folder itself is ours: the servers' user gets the right to enter it, which a folder made for root lacks. */
async function letEnter(dir: string, account: Account | undefined): Promise<void> {
  if (!account || await closedFolder(dir, account) !== await Deno.realPath(dir)) return;
  const { mode } = await Deno.stat(dir);
  await Deno.chmod(dir, (mode! & 0o777) | 0o111);
}

async function endLeftovers(dir: string, log: Log): Promise<void> {
  const [postgres, etcd] = await Promise.all([
    endPostgresLeftover(join(dir, "postgres")),
    endEtcdLeftover(join(dir, "etcd")),
  ]);
  if (postgres || etcd) {
    log.warn({ dir, postgres, etcd }, "ended servers that an earlier run had left behind");
  }
}
