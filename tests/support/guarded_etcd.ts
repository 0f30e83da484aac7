/** An etcd with users, for tests of rights. */
import assert from "node:assert/strict";
import { findEtcd } from "../../lib/embedded/embedded.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";
import { ownEtcd, quiet as quietLog } from "./servers.ts";
import { EtcdDoor, makeWorld, type World } from "./world.ts";

/** Without Deno's sanitizers: etcd3, the test's own door, leaves the channel of its login open. */
export const loose = { sanitizeOps: false, sanitizeResources: false };

const rights = Deno.readTextFileSync(new URL("../../docs/rights.md", import.meta.url));

/** The commands of a section of docs/rights.md. */
export function script(section: string, language: string): string[] {
  const text = rights.split(`## ${section}\n`)[1].split("\n## ")[0];
  const blocks = [...text.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "g"))];
  return blocks.flatMap(([, body]) => body.trim().split("\n"));
}

export interface Guarded extends AsyncDisposable {
  world: World;
  /** As root. */
  ctl(args: string[], input?: string): Promise<string>;
  /** The program's `-e` for this user. */
  dsn(login: string): string;
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** An etcd with a root user, and a world on it. */
export async function guarded(args: string[] = []): Promise<Guarded> {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(await ownEtcd(args));
  const address = server.dsn.replace(/^etcd:\/\/|\/$/g, "");
  const { etcdctl } = await findEtcd(defaultSearch(), quietLog);
  assert.ok(etcdctl, "these tests need etcdctl beside etcd, or on PATH");
  const run = async (args: string[], input = "") => {
    const command = new Deno.Command(etcdctl, {
      args: [`--endpoints=${address}`, ...args],
      env: { ETCDCTL_API: "3" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    });
    const child = command.spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(input));
    await writer.close();
    const { success, stdout, stderr } = await child.output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    if (!success) throw new Error(`etcdctl ${args.join(" ")}: ${text(stderr)}`);
    return text(stdout);
  };
  await run(["user", "add", "root:root"]);
  await run(["role", "add", "root"]).catch(() => {}); // some versions have it
  await run(["user", "grant-role", "root", "root"]);
  await run(["auth", "enable"]);
  const outer = stack.use(await makeWorld({ prefix: "/app/" }));
  const door = stack.use(new EtcdDoor(`etcd://root:root@${address}/`));
  const world = stack.use(outer.on({ dsn: server.dsn, etcd: door }));
  const all = stack.move();
  return {
    world,
    ctl: (args, input) => run(["--user=root:root", ...args], input),
    dsn: (login) => `etcd://${login}@${address}/app/`,
    stop: () => server.stop(),
    start: () => server.start(),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** The script of the docs. */
export async function grantAll({ ctl }: Guarded): Promise<string> {
  for (const line of script("etcd", "sh")) {
    const [program, ...args] = line.split(" ");
    assert.equal(program, "etcdctl");
    await ctl(args);
  }
  return "etcd-pg-sync:secret";
}
