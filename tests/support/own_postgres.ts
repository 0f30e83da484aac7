/** A PostgreSQL that a test may restart and replicate, on a port of its own. */

import { join } from "node:path";
import { serverAccount } from "../../lib/embedded/account.ts";
import { type PostgresServer, startPostgres } from "../../lib/embedded/postgres.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { Session } from "./postgres.ts";
import { binaries, fastPostgres, tempDir } from "./servers.ts";

export interface OwnPostgres extends AsyncDisposable {
  dsn: string;
  port: number;
  /** Its data folder. */
  data: string;
  /** One statement as superuser. */
  sql: Session["sql"];
  /** SIGQUIT is "immediate": no checkpoint, nobody is told. */
  stop(signal?: "SIGQUIT" | "SIGKILL"): Promise<void>;
  start(): Promise<void>;
  freeze(): void;
  wake(): void;
  /** A streaming replica of it. */
  replica(): Promise<OwnPostgres>;
}

export async function ownPostgres(settings: Record<string, string> = {}): Promise<OwnPostgres> {
  const stack = new AsyncDisposableStack();
  try {
    const dir = stack.use(await tempDir()).path;
    return { ...await run(dir, settings, stack), [Symbol.asyncDispose]: () => stack.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** What it starts, now and later, ends with the stack. */
async function run(
  dir: string,
  settings: Record<string, string>,
  stack: AsyncDisposableStack,
): Promise<Omit<OwnPostgres, keyof AsyncDisposable>> {
  const { bin } = await binaries();
  const port = freePort();
  const start = () => startPostgres({ bin, dir, port, settings: { ...fastPostgres, ...settings } });
  let server: PostgresServer | undefined = await start();
  const { dsn } = server;
  stack.defer(async () => {
    if (server) Deno.kill(server.pid, "SIGCONT");
    await server?.stop("SIGQUIT");
  });
  const session = stack.use(new Session(dsn));
  return {
    dsn,
    port,
    data: join(dir, "data"),
    sql: session.sql.bind(session),
    async stop(signal = "SIGQUIT") {
      await server?.stop(signal);
      server = undefined;
    },
    async start() {
      server = await start();
    },
    freeze: () => Deno.kill(server!.pid, "SIGSTOP"),
    wake: () => Deno.kill(server!.pid, "SIGCONT"),
    async replica() {
      const copy = stack.use(await tempDir()).path;
      await baseBackup(bin, dsn, copy);
      const own = await run(copy, settings, stack);
      return { ...own, [Symbol.asyncDispose]: () => Promise.resolve() };
    },
  };
}

async function baseBackup(bin: string, dsn: string, home: string): Promise<void> {
  const { uid, gid } = serverAccount() ?? {};
  if (uid !== undefined) await Deno.chown(home, uid, gid!);
  await Deno.writeTextFile(join(home, "password"), new URL(dsn).password);
  const { success, stderr } = await new Deno.Command(join(bin, "pg_basebackup"), {
    args: ["-d", dsn, "-D", join(home, "data"), "-R", "-X", "stream", "-c", "fast"],
    cwd: home,
    stdin: "null",
    uid,
    gid,
  }).output();
  if (!success) throw new Error(`Cannot copy PostgreSQL: ${new TextDecoder().decode(stderr).trim()}`);
}
