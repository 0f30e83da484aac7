/** Three ways to a PostgreSQL and an etcd for the tests: given ones, containers, this machine's own binaries. */

import {
  defaultSearch,
  findEtcd,
  findPostgres,
  type Log,
  startEmbedded,
} from "../../lib/embedded/embedded.ts";
import { dirname, join } from "node:path";
import { type EtcdServer, startEtcd } from "../../lib/embedded/etcd.ts";
import { beside } from "../../lib/embedded/find.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { EtcdDoor } from "./etcd.ts";
import { Session } from "./postgres.ts";

export interface Servers extends AsyncDisposable {
  way: "given" | "containers" | "local binaries";
  postgresDsn: string;
  etcdDsn: string;
}

/** Says nothing but warnings. */
export const quiet: Log = {
  info() {},
  warn: (fields, message) => console.error(message, fields),
};

/**
 * Faster, and only a power cut can tell: what was committed is with the operating system, and outlives SIGKILL of the
 * server. Not so with `synchronous_commit=off`, which loses the last commits.
 */
export const fastPostgres = { fsync: "off", full_page_writes: "off" };
export const fastEtcd = ["--unsafe-no-fsync"];

export async function startServers(say: (line: string) => void): Promise<Servers> {
  return givenServers() ?? await containers(say) ?? await localServers();
}

/** The versions, as the servers themselves tell them. */
export async function versions(
  { postgresDsn, etcdDsn }: Servers,
): Promise<{ postgres: string; etcd: string }> {
  await using session = new Session(postgresDsn);
  await using door = new EtcdDoor(etcdDsn);
  const [{ server_version }] = await session.sql("show server_version");
  return { postgres: server_version.split(" ")[0], etcd: await door.version() };
}

/** Where the binaries are that a test starts by itself, to kill and restart them. */
export async function binaries(): Promise<{ bin: string; etcd: string }> {
  const search = defaultSearch();
  return { bin: await findPostgres(search, quiet), etcd: (await findEtcd(search, quiet)).etcd };
}

/** A folder that any user may enter, since PostgreSQL does not run as root; gone with the test. */
export async function tempDir(): Promise<AsyncDisposable & { path: string }> {
  const path = await Deno.makeTempDir({ prefix: "etcd-pg-sync-test-" });
  await Deno.chmod(path, 0o755);
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** An etcd that a test may freeze, stop, wipe and start again, on the same port. */
export interface OwnEtcd extends AsyncDisposable {
  dsn: string;
  etcd: EtcdDoor;
  /** Where it logs (each start begins the file anew). */
  log: string;
  /** SIGSTOP and SIGCONT. */
  freeze(): void;
  wake(): void;
  /** SIGKILL: at a GOAWAY, which a gentle end sends, Deno's own nghttp2 can abort this process (denoland/deno#36788). */
  stop(): Promise<void>;
  /** Starts it again; `wipe`: with nothing in it, a new cluster. */
  start(options?: { wipe?: boolean }): Promise<void>;
  /** Saves a snapshot. */
  backup(): Promise<void>;
  /** Puts the snapshot in the place of what there is; between stop() and start(). Member and cluster keep their ids. */
  restore(flags?: string[]): Promise<void>;
}

/** The tools of a backup; `bump`: restore knows `--bump-revision` (etcdutl 3.6). */
export async function backupTools(): Promise<{ save: string; restore: string; bump: boolean } | undefined> {
  const search = defaultSearch();
  const folder = dirname((await findEtcd(search, quiet)).etcd);
  const save = await beside("etcdctl", folder, search);
  const restore = await beside("etcdutl", folder, search) ?? save;
  if (!save || !restore) return undefined;
  const { stdout } = await new Deno.Command(restore, { args: ["snapshot", "restore", "--help"], env: API })
    .output();
  return { save, restore, bump: new TextDecoder().decode(stdout).includes("--bump-revision") };
}

const API = { ETCDCTL_API: "3" };

async function succeed(command: string, args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, { args, env: API, stdout: "null" }).output();
  if (!success) throw new Error(`${command} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** @param args may depend on the port of the clients */
export async function ownEtcd(args: string[] | ((port: number) => string[]) = []): Promise<OwnEtcd> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const binary = (await findEtcd(defaultSearch(), quiet)).etcd;
  const peer = `http://127.0.0.1:${freePort()}`; // a restored member keeps its ids only with the same address
  const peers = [
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=default=${peer}`,
  ];
  const run = (port: number) => {
    const own = typeof args === "function" ? args(port) : args;
    return startEtcd({ binary, dir: join(dir.path, "etcd"), args: [...fastEtcd, ...peers, ...own], port });
  };
  let server: EtcdServer | undefined = await run(freePort());
  const { port, dsn, log } = server;
  stack.defer(async () => {
    if (server) Deno.kill(server.pid, "SIGCONT");
    await server?.stop("SIGKILL"); // see stop(): etcd3 leaves the channel of a login open
  });
  const etcd = stack.use(new EtcdDoor(dsn)); // closed before the server
  const all = stack.move();
  return {
    dsn,
    etcd,
    log,
    freeze: () => Deno.kill(server!.pid, "SIGSTOP"),
    wake: () => Deno.kill(server!.pid, "SIGCONT"),
    async stop() {
      await server?.stop("SIGKILL");
      server = undefined;
    },
    async backup() {
      const tools = (await backupTools())!;
      await succeed(tools.save, [
        `--endpoints=${server!.endpoint}`,
        "snapshot",
        "save",
        join(dir.path, "snapshot"),
      ]);
    },
    async restore(flags = []) {
      const tools = (await backupTools())!;
      const data = join(dir.path, "etcd", "data");
      await Deno.remove(data, { recursive: true });
      const identity = [
        "--name=default",
        `--initial-cluster=default=${peer}`,
        `--initial-advertise-peer-urls=${peer}`,
      ];
      await succeed(tools.restore, [
        "snapshot",
        "restore",
        join(dir.path, "snapshot"),
        `--data-dir=${data}`,
        ...identity,
        ...flags,
      ]);
    },
    async start({ wipe = false } = {}) {
      if (wipe) await Deno.remove(join(dir.path, "etcd"), { recursive: true });
      server = await run(port);
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

function givenServers(): Servers | undefined {
  const postgresDsn = Deno.env.get("ETCD_PG_SYNC_TEST_POSTGRES");
  const etcdDsn = Deno.env.get("ETCD_PG_SYNC_TEST_ETCD");
  if (!postgresDsn && !etcdDsn) return undefined;
  if (!postgresDsn || !etcdDsn) {
    throw new Error(
      "Cannot use given servers: wanted both ETCD_PG_SYNC_TEST_POSTGRES and ETCD_PG_SYNC_TEST_ETCD",
    );
  }
  return { way: "given", postgresDsn, etcdDsn, [Symbol.asyncDispose]: () => Promise.resolve() };
}

/** Undefined, with one line why, where a container engine runs but cannot start them. */
async function containers(say: (line: string) => void): Promise<Servers | undefined> {
  const { dockerAnswers, startContainers } = await import("./containers.ts");
  if (!await dockerAnswers()) return undefined;
  try {
    return await startContainers();
  } catch (error) {
    say(`containers cannot be started, taking local binaries: ${(error as Error).message.split("\n")[0]}`);
    return undefined;
  }
}

async function localServers(): Promise<Servers> {
  const log: Log = { ...quiet, info: (_fields, message) => console.error(message) };
  const embedded = await startEmbedded({
    log,
    settings: { ...fastPostgres, max_connections: "200" },
    etcdArgs: fastEtcd,
  });
  return {
    way: "local binaries",
    postgresDsn: embedded.postgresDsn,
    etcdDsn: embedded.etcdDsn,
    [Symbol.asyncDispose]: () => embedded[Symbol.asyncDispose](),
  };
}
