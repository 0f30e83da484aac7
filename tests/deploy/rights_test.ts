/** The scripts of deploy/rights: what they give is enough, and all of it is needed. */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { findEtcd } from "../../lib/embedded/embedded.ts";
import { beside } from "../../lib/embedded/find.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";
import { type Guarded, guarded, loose } from "../support/guarded_etcd.ts";
import { judged, quiet as settled } from "../support/history.ts";
import { fromFileUrl } from "../support/paths.ts";
import { binaries, quiet } from "../support/servers.ts";
import { eventually, type World } from "../support/world.ts";

const scripts = fromFileUrl("../../deploy/rights");

interface Granted extends AsyncDisposable {
  world: World;
  etcd: Guarded;
  role: string;
  /** The program's flags, with the rights of the scripts and no others. */
  flags: string[];
}

async function run(command: string, args: string[], env: Record<string, string> = {}): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, { args, env, stdout: "null" }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
}

async function psql(world: World, file: string, variables: Record<string, string>): Promise<void> {
  const found = await beside("psql", (await binaries()).bin, defaultSearch());
  assert.ok(found, "this test needs psql beside PostgreSQL, or on PATH");
  const given = Object.entries(variables).flatMap(([name, value]) => ["-v", `${name}=${value}`]);
  await run(found, ["-X", "-d", world.postgresDsn, ...given, "-f", `${scripts}/${file}`]);
}

/** Both scripts, on servers where nothing is open to everyone. */
async function granted(env: Record<string, string> = {}): Promise<Granted> {
  await using stack = new AsyncDisposableStack();
  const etcd = stack.use(await guarded());
  const { world } = etcd;
  const role = `sync_${world.database}`;
  await world.sql("revoke all on schema public from public");
  stack.defer(async () => void await world.sql(`drop owned by ${role} cascade; drop role ${role}`));
  await psql(world, "postgres.sql", { role, password: "it's secret", schema: "etcd_sync" });
  const { etcdctl } = await findEtcd(defaultSearch(), quiet);
  await run("sh", [`${scripts}/etcd.sh`, "/app/", "secret"], {
    PATH: `${dirname(etcdctl!)}:${Deno.env.get("PATH")}`,
    ETCDCTL_API: "3",
    ETCDCTL_ENDPOINTS: etcd.dsn("").replace(/^etcd:\/\/@|\/app\/$/g, ""),
    ETCDCTL_USER: "root:root",
    ...env,
  });
  const dsn = new URL(world.postgresDsn);
  [dsn.username, dsn.password] = [role, "it's secret"];
  await world.sql("set search_path to etcd_sync, public");
  const flags = ["-e", etcd.dsn("etcd-pg-sync:secret"), "-p", dsn.href, "--schema", "etcd_sync"];
  const all = stack.move();
  return { world, etcd, role, flags, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** What `config check` finds besides what is well; the bugs that a version of etcd is known for are not of the rights. */
async function missing({ world, flags }: Granted, more: string[] = []): Promise<string[]> {
  const { stdout } = await world.run("config", ["check", ...flags, ...more, "--format", "json"]);
  const { findings } = JSON.parse(stdout) as { findings: { state: string; what: string }[] };
  return findings.filter(({ state, what }) => state !== "ok" && !what.includes("has a known bug")).map((
    { what },
  ) => what);
}

Deno.test("with the rights of the scripts, and no others, both ways work", loose, async () => {
  await using given = await granted();
  const { world, flags } = given;
  assert.deepEqual(await missing(given), []);
  const from = await world.etcd.put(world.key("a"), "1");
  const program = world.program(flags);
  await program.until((line) => line.to === "streaming");
  await world.sql("select etcd_set($1, 'up')", [world.key("up")]);
  await settled(world);
  await judged(world, { from });
  assert.deepEqual(await missing(given), [], "when it is installed");

  const monitor = `monitor_${world.database}`;
  await psql(world, "postgres-monitor.sql", { role: monitor, password: "m", schema: "etcd_sync" });
  try {
    await using session = world.session(monitor, "m");
    assert.equal((await session.sql("select from etcd_sync.etcd_sync_status()")).length, 1);
    await assert.rejects(session.sql("select from etcd_sync.etcd_kv"), /permission denied/);
  } finally {
    await world.sql(`drop owned by ${monitor} cascade; drop role ${monitor}`);
  }
  program.kill("SIGTERM");
  await program.status;
});

Deno.test("a right of the scripts that is missing is named by `config check`", loose, async () => {
  await using given = await granted();
  const { world, etcd: { ctl }, role } = given;
  const permission = (verb: string, ...what: string[]) =>
    ctl(["role", `${verb}-permission`, "etcd-pg-sync", ...what]);

  await world.sql(`revoke create on schema etcd_sync from ${role}`);
  assert.deepEqual(await missing(given), [`user '${role}' may not create tables in schema 'etcd_sync'`]);
  await world.sql(`grant create on schema etcd_sync to ${role}; revoke pg_read_all_stats from ${role}`);
  assert.deepEqual(await missing(given), ["it cannot see whose locks stand in its way"]);
  await world.sql(`grant pg_read_all_stats to ${role}`);

  await permission("revoke", "--prefix=true", "/app/");
  assert.deepEqual((await missing(given)).slice(0, 2), [
    "it may not read the keys under '/app/'",
    "it may not write the keys under '/app/'",
  ]);
  await permission("grant", "read", "--prefix=true", "/app/");
  assert.deepEqual((await missing(given))[0], "it may not write the keys under '/app/'");
  await permission("grant", "readwrite", "--prefix=true", "/app/");
  await permission("revoke", "/_etcd-pg-sync/default");
  assert.deepEqual(await missing(given), [
    "it may not read the marker '/_etcd-pg-sync/default'",
    "it may not write the marker '/_etcd-pg-sync/default'",
  ]);
});

Deno.test("READ_ONLY=1 is enough for a one-way stream, and gives no right to write", loose, async () => {
  await using given = await granted({ READ_ONLY: "1" });
  const { world, flags } = given;
  assert.deepEqual(await missing(given, ["--one-way"]), []);
  assert.ok((await missing(given)).includes("it may not write the keys under '/app/'"));
  await world.etcd.put(world.key("a"), "1");
  world.program([...flags, "--one-way"]);
  await eventually(async () => (await world.sql("select from etcd_sync.etcd").catch(() => [])).length === 1);
});
