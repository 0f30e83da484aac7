/** A PgBouncer before a PostgreSQL: the machine's own, else Debian's, unpacked into the cache. */

import { join } from "node:path";
import { serverAccount } from "../../lib/embedded/account.ts";
import { fillFolder } from "../../lib/embedded/fetch.ts";
import { unpackDebian } from "../../lib/embedded/fetch_debian.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { defaultSearch, isFile, onPath } from "../../lib/embedded/search.ts";
import { supervise } from "../../lib/embedded/supervise.ts";
import { eventually } from "./eventually.ts";
import { Session } from "./postgres.ts";
import { tempDir } from "./servers.ts";

export type PoolMode = "session" | "transaction" | "statement";

/** The DSN of a pool of one server connection for each database. */
export async function startPgBouncer(
  dsn: string,
  mode: PoolMode,
): Promise<AsyncDisposable & { dsn: string }> {
  await using stack = new AsyncDisposableStack();
  const home = stack.use(await tempDir()).path;
  const { uid, gid, ...account } = serverAccount() ?? { uid: undefined, gid: undefined };
  const server = new URL(dsn);
  const port = freePort();
  const password = decodeURIComponent(server.password);
  await Deno.writeTextFile(join(home, "users"), `"${server.username}" "${password}"\n`);
  await Deno.writeTextFile(join(home, "ini"), configuration(server, port, mode, home));
  if (uid !== undefined) await Deno.chown(home, uid, gid!);
  const { binary, libraries } = await find();
  stack.use(
    await supervise({
      home,
      command: ["env", `LD_LIBRARY_PATH=${libraries}`, binary, join(home, "ini")],
      gentle: "TERM",
      firm: "KILL",
      patience: 5,
      account: uid === undefined ? undefined : { uid, gid: gid!, name: (account as { name: string }).name },
    }),
  );
  const pooled = new URL(dsn);
  pooled.host = `127.0.0.1:${port}`;
  const session = stack.use(new Session(pooled.href));
  await eventually(() => session.sql("select 1"));
  await session[Symbol.asyncDispose]();
  const all = stack.move();
  return { dsn: pooled.href, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

function configuration(server: URL, port: number, mode: PoolMode, home: string): string {
  return `
[databases]
* = host=${server.hostname} port=${server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = plain
auth_file = ${join(home, "users")}
pool_mode = ${mode}
default_pool_size = 1
`;
}

async function find(): Promise<{ binary: string; libraries: string }> {
  const search = defaultSearch();
  const installed = await onPath("pgbouncer", [...search.path, "/usr/sbin"]);
  if (installed) return { binary: installed, libraries: "" };
  const folder = join(search.cache, "pgbouncer-debian");
  const binary = join(folder, "usr/sbin/pgbouncer");
  if (!await isFile(binary)) await fillFolder(folder, fetchPackages);
  const arch = Deno.build.arch;
  return { binary, libraries: join(folder, `usr/lib/${arch}-linux-gnu`) };
}

async function fetchPackages(folder: string): Promise<void> {
  const packages = ["pgbouncer", "libc-ares2", "libevent-2.1-7"];
  const why = await unpackDebian({ apt: "apt-get", dpkg: "dpkg" }, packages, folder);
  if (why) throw new Error(`Cannot fetch PgBouncer: ${why}; install it, so that 'pgbouncer' is on PATH`);
}
