/** A PostgreSQL of the suite's own, which can be killed and started again on the same port and data. */
import { join } from "node:path";
import { findPostgres, type PostgresServer, startPostgres } from "../../lib/embedded/embedded.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";
import { pause } from "../support/eventually.ts";
import { fastPostgres, quiet, tempDir } from "../support/servers.ts";

export interface OwnPostgres extends AsyncDisposable {
  dsn: string;
  port: number;
  version: string;
  /** Where it logs, also after a restart (each start begins the file anew). */
  log: string;
  /** SIGKILL ends only the postmaster, its sessions notice by themselves; SIGQUIT is its immediate shutdown. */
  kill(signal: "SIGKILL" | "SIGQUIT"): Promise<void>;
  start(): Promise<void>;
}

/** @param bin the folder with `postgres` and `initdb`; as the tests find it if not given */
export async function ownPostgres(bin?: string): Promise<OwnPostgres> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const found = bin ?? await findPostgres(defaultSearch(), quiet);
  const run = (port?: number) =>
    startPostgres({
      bin: found,
      dir: join(dir.path, "postgres"),
      settings: { ...fastPostgres, max_connections: "200", log_min_messages: "warning" },
      port,
    });
  let server: PostgresServer | undefined = await run();
  const { dsn, port, version, log } = server;
  stack.defer(() => server?.stop());
  const all = stack.move();
  return {
    dsn,
    port,
    version,
    log,
    async kill(signal) {
      await server?.stop(signal);
      server = undefined;
    },
    async start() {
      server = await untilStarted(() => run(port));
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** After a SIGKILL of the postmaster the last of its sessions can still hold the shared memory. */
async function untilStarted(run: () => Promise<PostgresServer>): Promise<PostgresServer> {
  for (const end = Date.now() + 20_000;; await pause(200)) {
    try {
      return await run();
    } catch (error) {
      if (Date.now() >= end) throw error;
    }
  }
}
