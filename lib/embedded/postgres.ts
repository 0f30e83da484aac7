/** One PostgreSQL server on loopback. */

import { join, resolve } from "node:path";
import pg from "pg";
import { type Account, makeOwned, serverAccount } from "./account.ts";
import { ignoreMissing } from "./fetch.ts";
import { freePort, untilReady } from "./ready.ts";
import { endLeftover, type Process, serverEnv, supervise } from "./supervise.ts";

export interface PostgresOptions {
  /** The folder with `postgres` and `initdb` */
  bin: string;
  /** Kept between runs: data, password, log and pid file */
  dir: string;
  /** Who it runs as, if not as `serverAccount()` says */
  account?: Account;
  /** Settings of the server, such as `{ fsync: "off" }` */
  settings?: Record<string, string>;
  /** A free one if not given */
  port?: number;
  /** The folder above `dir`, when both are to be gone with the server */
  throwaway?: string;
  deadlineMs?: number;
  signal?: AbortSignal;
}

export interface PostgresServer extends Process {
  port: number;
  /** `postgres://postgres:PASSWORD@127.0.0.1:PORT/postgres` */
  dsn: string;
  version: string;
  log: string;
}

/** Starts PostgreSQL, and returns when it answers a query. A server left behind in the same folder is ended first. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const home = resolve(options.dir);
  const account = options.account ?? serverAccount();
  await makeOwned(home, account);
  await endPostgresLeftover(home);
  const password = await initialize(options, home, account);
  const port = options.port ?? freePort();
  const dsn = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
  const server = await launch(options, home, port, account);
  try {
    const version = await untilReady(server, {
      what: "postgres",
      home,
      deadlineMs: options.deadlineMs ?? 60_000,
      signal: options.signal,
      probe: () => postgresVersion(dsn),
    });
    await writeSecret(join(home, "dsn"), dsn);
    return { ...server, port, dsn, version, log: join(home, "log") };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Ends what an earlier run left in this folder; says whether there was anything. */
export async function endPostgresLeftover(home: string): Promise<boolean> {
  const data = join(home, "data");
  let ended = false;
  for (const file of [join(home, "pid"), join(data, "postmaster.pid")]) {
    const pid = parseInt(await Deno.readTextFile(file).catch(() => ""));
    if (pid) ended = await endLeftover(pid, "-D", data, ["SIGINT", "SIGQUIT"]) || ended;
  }
  await Deno.remove(join(home, "pid")).catch(ignoreMissing);
  return ended;
}

function launch(options: PostgresOptions, home: string, port: number, account?: Account): Promise<Process> {
  const settings = { listen_addresses: "127.0.0.1", unix_socket_directories: "", ...options.settings };
  const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  return supervise({
    home,
    command: [join(options.bin, "postgres"), "-D", join(home, "data"), "-p", String(port), ...flags],
    gentle: "INT",
    firm: "QUIT",
    patience: 10,
    account,
    throwaway: options.throwaway,
  });
}

/**
 * Makes the data folder if there is none, and returns the superuser's password.
 *
 * A password, although it listens on loopback only: a superuser can run programs as the user that PostgreSQL runs
 * as, and with trust every user of the machine would be that superuser. It stands in a file that only its owner
 * reads, and in the file `dsn` beside it, for `psql "$(cat DIR/dsn)"`.
 */
async function initialize(options: PostgresOptions, home: string, account?: Account): Promise<string> {
  const file = join(home, "password");
  const data = join(home, "data");
  if (await Deno.stat(data).catch(() => undefined)) return await Deno.readTextFile(file);
  const password = crypto.randomUUID().replaceAll("-", "");
  await writeSecret(file, password);
  if (account) await Deno.chown(file, account.uid, account.gid);
  // A folder that initdb has not finished never bears the final name
  const unfinished = join(home, "data.unfinished");
  await Deno.remove(unfinished, { recursive: true }).catch(ignoreMissing);
  await initdb(options, unfinished, file, account);
  await Deno.rename(unfinished, data);
  return password;
}

async function initdb(options: PostgresOptions, data: string, passwordFile: string, account?: Account) {
  const args = ["-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256"];
  if (options.settings?.fsync === "off") args.push("--no-sync");
  const { success, stderr } = await new Deno.Command(join(options.bin, "initdb"), {
    args: [...args, `--pwfile=${passwordFile}`],
    cwd: resolve(options.dir),
    clearEnv: true,
    env: serverEnv(resolve(options.dir)),
    stdin: "null",
    uid: account?.uid,
    gid: account?.gid,
    signal: options.signal,
  }).output();
  if (success) return;
  options.signal?.throwIfAborted();
  throw new Error(`Cannot start embedded postgres: initdb said '${new TextDecoder().decode(stderr).trim()}'`);
}

async function writeSecret(file: string, text: string): Promise<void> {
  await Deno.remove(file).catch(ignoreMissing);
  await Deno.writeTextFile(file, text, { mode: 0o600 });
}

async function postgresVersion(dsn: string): Promise<string> {
  const client = new pg.Client({ connectionString: dsn, connectionTimeoutMillis: 5_000 });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query("show server_version")).rows[0].server_version.split(" ")[0];
  } finally {
    await client.end();
  }
}
