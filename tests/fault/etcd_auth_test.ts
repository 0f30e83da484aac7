/** etcd with users: the rights that the docs give, tokens that end, rights that are missing on one side only. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { findEtcd } from "../../lib/embedded/embedded.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";
import { judged, quiet } from "../support/history.ts";
import { streaming } from "../support/run.ts";
import { ownEtcd, quiet as quietLog, tempDir } from "../support/servers.ts";
import { EtcdDoor, eventually, makeWorld, type World } from "../support/world.ts";

/** Without Deno's sanitizers: etcd3, the test's own door, leaves the channel of its login open. */
const loose = { sanitizeOps: false, sanitizeResources: false };

const rights = Deno.readTextFileSync(new URL("../../docs/rights.md", import.meta.url));

/** The commands of a section of docs/rights.md. */
function script(section: string, language: string): string[] {
  const text = rights.split(`## ${section}\n`)[1].split("\n## ")[0];
  const blocks = [...text.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "g"))];
  return blocks.flatMap(([, body]) => body.trim().split("\n"));
}

interface Guarded extends AsyncDisposable {
  world: World;
  /** As root. */
  ctl(args: string[]): Promise<string>;
  /** The program's `-e` for this user. */
  dsn(login: string): string;
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** An etcd with a root user, and a world on it. */
async function guarded(args: string[] = []): Promise<Guarded> {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(await ownEtcd(args));
  const address = server.dsn.replace(/^etcd:\/\/|\/$/g, "");
  const { etcdctl } = await findEtcd(defaultSearch(), quietLog);
  assert.ok(etcdctl, "these tests need etcdctl beside etcd, or on PATH");
  const run = async (args: string[]) => {
    const command = new Deno.Command(etcdctl, {
      args: [`--endpoints=${address}`, ...args],
      env: { ETCDCTL_API: "3" },
      stdin: "null",
    });
    const { success, stdout, stderr } = await command.output();
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
    ctl: (args) => run(["--user=root:root", ...args]),
    dsn: (login) => `etcd://${login}@${address}/app/`,
    stop: () => server.stop(),
    start: () => server.start(),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** The script of the docs. */
async function grantAll({ ctl }: Guarded): Promise<string> {
  for (const line of script("etcd", "sh")) {
    const [program, ...args] = line.split(" ");
    assert.equal(program, "etcdctl");
    await ctl(args);
  }
  return "etcd-pg-sync:secret";
}

async function bothWays(world: World, name: string): Promise<void> {
  await eventually(() => world.etcd.put(world.key(`down-${name}`), name));
  await world.sql("select etcd_set($1, $2)", [world.key(`up-${name}`), name]);
  await quiet(world);
}

Deno.test("the rights that docs/rights.md gives are enough, on both sides", loose, async () => {
  await using etcd = await guarded();
  const { world } = etcd;
  const login = await grantAll(etcd);
  const from = await world.etcd.put(world.key("a"), "1");
  const sql = script("PostgreSQL", "sql").map((line) =>
    line.replaceAll("etcd_pg_sync", `sync_${world.database}`)
  );
  try {
    for (const statement of sql) await world.sql(statement);
    const dsn = new URL(world.postgresDsn);
    [dsn.username, dsn.password] = [`sync_${world.database}`, "secret"];
    const program = world.program(["-e", etcd.dsn(login), "-p", dsn.href, "--schema", "etcd_sync"]);
    await world.sql("set search_path to etcd_sync, public");
    await program.until(async () =>
      (await world.state().catch(() => undefined))?.state === "streaming" ||
      (await world.sql("select state from etcd_sync.etcd_sync_state").catch(() => []))[0]?.state ===
        "streaming"
    );
    await bothWays(world, "1");
    await judged(world, { from });
    program.kill("SIGTERM");
    await program.status;
  } finally {
    await world.sql("drop schema if exists etcd_sync cascade");
    await world.sql(`drop role if exists sync_${world.database}`);
  }
});

Deno.test("a one-way stream needs to read its prefix, and nothing else", loose, async () => {
  await using etcd = await guarded();
  const { world } = etcd;
  for (const line of script("One-way", "sh")) await etcd.ctl(line.split(" ").slice(1));
  await world.etcd.put(world.key("a"), "1");
  await streaming(world, ["-e", etcd.dsn("etcd-pg-sync:secret"), "--one-way"]);
  await world.etcd.put(world.key("b"), "2");
  await quiet(world);
  assert.equal((await world.sql("select from etcd")).length, 2);
  await eventually(async () => (await world.state())!.fresh_at);
  assert.equal(await world.etcd.get("/_etcd-pg-sync/default"), undefined);
});

Deno.test(
  "simple tokens that end: the drain logs in anew, and so does the watch after a restart of etcd",
  loose,
  async () => {
    await using etcd = await guarded(["--auth-token-ttl=1"]);
    const { world } = etcd;
    const login = await grantAll(etcd);
    const from = await world.etcd.put(world.key("a"), "1");
    await streaming(world, ["-e", etcd.dsn(login)]);
    await untilTokenEnds(etcd, login);
    for (let i = 0; i < 3; i++) await bothWays(world, String(i));
    await etcd.stop(); // its tokens are in memory only
    await etcd.start();
    await bothWays(world, "restarted");
    const { wal } = await judged(world, { from });
    assert.ok(wal.every(({ status }) => status === "success"));
  },
);

/** A token that was taken now, later than the program's, has ended. */
async function untilTokenEnds({ dsn }: Guarded, login: string): Promise<void> {
  const [name, password] = login.split(":");
  const gateway = dsn("").replace(/^etcd:\/\/@/, "http://").replace(/\/app\/$/, "/v3");
  const ask = async (path: string, body: object, token?: string) =>
    await (await fetch(`${gateway}/${path}`, {
      method: "POST",
      body: JSON.stringify(body),
      headers: token ? { authorization: token } : {},
    })).json();
  await eventually(async () => {
    const { token } = await ask("auth/authenticate", { name, password });
    for (const end = Date.now() + 5_000; Date.now() < end;) {
      await new Promise((resolve) => setTimeout(resolve, 2_500)); // to ask would prolong its life
      const { error, message } = await ask("kv/range", { key: btoa("/app/a") }, token);
      if (/invalid auth token/.test(error ?? message ?? "")) return true;
    }
    return false;
  }, { timeoutMs: 30_000 });
}

Deno.test("JWT: tokens that end, and an auth store that changes", loose, async () => {
  await using dir = await tempDir();
  const keys = { priv: join(dir.path, "jwt.key"), pub: join(dir.path, "jwt.pub") };
  await openssl(["genrsa", "-out", keys.priv, "2048"]);
  await openssl(["rsa", "-in", keys.priv, "-pubout", "-out", keys.pub]);
  await using etcd = await guarded([
    `--auth-token=jwt,pub-key=${keys.pub},priv-key=${keys.priv},sign-method=RS256,ttl=2s`,
  ]);
  const { world } = etcd;
  const login = await grantAll(etcd);
  const from = await world.etcd.put(world.key("a"), "1");
  await streaming(world, ["-e", etcd.dsn(login)]);
  await bothWays(world, "first");
  await etcd.ctl(["user", "add", "other:other"]); // the auth store's revision rises
  await bothWays(world, "changed");
  await untilTokenEnds(etcd, login);
  await bothWays(world, "ended");
  await etcd.stop();
  await etcd.start();
  await bothWays(world, "restarted");
  const { wal } = await judged(world, { from });
  assert.ok(wal.every(({ status }) => status === "success"));
});

async function openssl(args: string[]): Promise<void> {
  const { success } = await new Deno.Command("openssl", {
    args,
    stdin: "null",
    stderr: "null",
    stdout: "null",
  }).output();
  assert.ok(success);
}

Deno.test("no right to write the prefix: such writes fail, the mirror runs", loose, async () => {
  await using etcd = await guarded();
  const { world, ctl } = etcd;
  const login = await grantAll(etcd);
  await ctl(["role", "revoke-permission", "etcd-pg-sync", "--prefix=true", "/app/"]);
  await ctl(["role", "grant-permission", "etcd-pg-sync", "read", "--prefix=true", "/app/"]);
  await ctl(["role", "grant-permission", "etcd-pg-sync", "readwrite", "/app/mine"]);
  await streaming(world, ["-e", etcd.dsn(login)]);
  await world.sql("select etcd_set($1, '1')", [world.key("theirs")]);
  await world.sql("select etcd_set($1, '1')", [world.key("mine")]);
  await world.etcd.put(world.key("down"), "1");
  await quiet(world);
  assert.deepEqual(await world.sql("select status, error_message from etcd_wal order by id"), [
    { status: "failed", error_message: "etcdserver: permission denied" },
    { status: "success", error_message: null },
  ]);
  assert.deepEqual((await world.sql("select key from etcd order by key")).map(({ key }) => key), [
    "/app/down",
    "/app/mine",
  ]);
});

Deno.test("no right to write the marker: writes wait for it, the mirror runs", loose, async () => {
  await using etcd = await guarded();
  const { world, ctl } = etcd;
  const login = await grantAll(etcd);
  const marker = "/_etcd-pg-sync/default";
  await ctl(["role", "revoke-permission", "etcd-pg-sync", marker]);
  await ctl(["role", "grant-permission", "etcd-pg-sync", "read", marker]);
  const program = await streaming(world, ["-e", etcd.dsn(login)]);
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  await world.etcd.put(world.key("down"), "1");
  await eventually(async () => (await world.sql("select 1 from etcd where key = '/app/down'")).length === 1);
  await program.until((line) => line.msg.startsWith("etcd does not take the marker"));
  assert.deepEqual(await world.sql("select status from etcd_wal"), [{ status: "pending" }]);
  await ctl(["role", "grant-permission", "etcd-pg-sync", "readwrite", marker]);
  await quiet(world);
  assert.deepEqual(await world.sql("select status from etcd_wal"), [{ status: "success" }]);
});
