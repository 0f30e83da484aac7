/** Where PostgreSQL and etcd are sought: named by the environment, on PATH, in the distribution's folders, fetched. */

import { dirname, join } from "node:path";
import { type Account, closedFolder } from "./account.ts";
import { fetchEtcd } from "./fetch_etcd.ts";
import { fetchPostgres } from "./fetch_postgres.ts";
import { isFile, type Log, onPath, type Search } from "./search.ts";

/** The folder that holds `postgres` and `initdb`. */
export async function findPostgres(search: Search, log: Log, account?: Account): Promise<string> {
  const bin = await postgresBin(search, log);
  const closed = account && await closedFolder(bin, account);
  if (closed) {
    throw new Error(
      `Cannot start embedded postgres: user '${account?.name}' may not enter '${closed}' on the way to '${bin}'`,
    );
  }
  return bin;
}

async function postgresBin(search: Search, log: Log): Promise<string> {
  if (search.postgresBin !== undefined) {
    if (await hasPostgres(search.postgresBin)) return search.postgresBin;
    throw new Error(
      `Cannot start embedded postgres: '${search.postgresBin}' holds no 'postgres' and 'initdb'`,
    );
  }
  return await postgresOnPath(search.path) ?? await newestPostgres(search.postgresRoot) ??
    await fetchPostgres(search, log);
}

/** The etcd binary, and an etcdctl if one stands beside it or on PATH. */
export async function findEtcd(search: Search, log: Log): Promise<{ etcd: string; etcdctl?: string }> {
  if (search.etcd !== undefined && !await isFile(search.etcd)) {
    throw new Error(`Cannot start embedded etcd: there is no file '${search.etcd}'`);
  }
  const etcd = search.etcd ?? await onPath("etcd", search.path) ?? await fetchEtcd(search, log);
  return { etcd, etcdctl: await beside("etcdctl", dirname(etcd), search) };
}

/** A client program from the server's own folder, else from PATH. */
export async function beside(name: string, folder: string, search: Search): Promise<string | undefined> {
  const own = join(folder, name);
  return await isFile(own) ? own : await onPath(name, search.path);
}

async function postgresOnPath(folders: string[]): Promise<string | undefined> {
  for (const folder of folders) {
    const file = join(folder, "postgres");
    if (!await isFile(file)) continue;
    const bin = dirname(await Deno.realPath(file));
    if (await hasPostgres(bin)) return bin;
  }
}

async function newestPostgres(root: string): Promise<string | undefined> {
  const versions: string[] = [];
  try {
    for await (const entry of Deno.readDir(root)) versions.push(entry.name);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  for (const version of versions.sort((a, b) => parseFloat(b) - parseFloat(a))) {
    const bin = join(root, version, "bin");
    if (await hasPostgres(bin)) return bin;
  }
}

async function hasPostgres(bin: string): Promise<boolean> {
  return await isFile(join(bin, "postgres")) && await isFile(join(bin, "initdb"));
}
