/** deploy/: the rules hold what their tests say, and know the metrics of a real run, well and broken. */
import assert from "node:assert/strict";
import { assertAlerts, RULES } from "../support/alerts.ts";
import { Door } from "../support/pages.ts";
import { fromFileUrl } from "../support/paths.ts";
import { promtool } from "../support/promtool.ts";
import { quiet } from "../support/history.ts";
import { killed, streaming, strict } from "../support/run.ts";
import { installed } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { makeWorld } from "../support/world.ts";

const folder = fromFileUrl("../../deploy");
const read = (path: string) => Deno.readTextFileSync(path);

Deno.test("the rules are valid, and hold what their tests say", strict, async () => {
  const { code, said } = await promtool(["test", "rules", "etcd-pg-sync.test.yml"], {
    cwd: `${folder}/prometheus`,
  });
  assert.equal(code, 0, said);
  assert.equal((await promtool(["check", "rules", RULES])).code, 0);
});

Deno.test("each alert has a section in docs/operations.md, and each section an alert", strict, () => {
  const rules = read(RULES);
  const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
  const links = [...rules.matchAll(/runbook_url: docs\/operations\.md#(\w+)/g)].map(([, anchor]) => anchor);
  const sections = [...read(fromFileUrl("../../docs/operations.md")).matchAll(/^### (EtcdPgSync\w+)$/gm)];
  assert.deepEqual(links, alerts.map((name) => name.toLowerCase()));
  assert.deepEqual(sections.map(([, name]) => name).sort(), [...alerts].sort());
  const tested = read(`${folder}/prometheus/etcd-pg-sync.test.yml`);
  assert.deepEqual(alerts.filter((name) => !tested.includes(`"${name}"`)), [], "not tested");
});

Deno.test("every statement of docs/operations.md can be pasted", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  const page = read(fromFileUrl("../../docs/operations.md"));
  const blocks = [...page.matchAll(/```sql\n([\s\S]*?)```/g)].map(([, sql]) => sql);
  const statements = blocks.flatMap((sql) => sql.split(";")).filter((sql) => sql.trim() !== "");
  assert.ok(statements.length >= 6);
  for (const sql of statements) await world.sql(sql);
});

/** Every name, with the labels that it is asked for by. */
function asked(text: string): Map<string, Set<string>> {
  const names = new Map<string, Set<string>>();
  for (const [, name, labels = ""] of text.matchAll(/\b(etcd_pg_sync_\w+|process_\w+)(?:\{([^}]*)\})?/g)) {
    const found = names.get(name) ?? new Set();
    for (const [, label] of labels.matchAll(/(\w+)\s*=/g)) found.add(label);
    names.set(name, found);
  }
  return names;
}

Deno.test(
  "a leader and a standby that are well: every metric that is asked for is there, and no alert",
  strict,
  async () => {
    await using world = await makeWorld();
    const [one, two] = [new Door(), new Door()];
    await streaming(world, one.args);
    await verified(world, 0);
    world.program(two.args);
    await two.untilReady(200, /standby/);
    const first = [await one.samples(), await two.samples()];
    await world.etcd.put(world.key("a"), "1");
    await world.sql("select etcd_set($1, '1')", [world.key("b")]);
    await quiet(world);
    await one.untilValue("wal_rows_total", { result: "success" }, (rows) => rows === 1);
    const page = await one.get("/metrics");
    const { code, said } = await promtool(["check", "metrics"], { input: page.text });
    assert.deepEqual({ code, said }, { code: 0, said: "" });

    for (const door of [one, two]) await door.untilValue("fresh_age_seconds", {}, (age) => age < 10);
    const last = [await one.samples(), await two.samples()];
    const wanted = [RULES, `${folder}/grafana/etcd-pg-sync.json`].map((path) =>
      asked(read(path).replaceAll("\\", ""))
    );
    const missing = wanted.flatMap((names) =>
      [...names].filter(([name, labels]) =>
        !last[0].some((sample) =>
          sample.name === name && [...labels].every((label) => label in sample.labels)
        )
      )
    );
    assert.deepEqual(missing, []);
    await assertAlerts(first.map((page, i) => ({ first: page, last: last[i] })), []);
  },
);

/** The last comparison is four days old, and found so many keys that differ. */
async function verified(world: { sql(text: string): Promise<unknown> }, differences: number): Promise<void> {
  await world.sql(`update etcd_sync_verify set missing = 0, extra = ${differences}, different = 0,
    verified_at = now() - interval '${differences ? 4 : 0} days'`);
}

Deno.test("keys that differ, found long ago", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  const first = await door.samples();
  await verified(world, 3);
  await door.untilValue("verification_differences", {}, (keys) => keys === 3);
  await door.untilValue("fresh_age_seconds", {}, (age) => age < 10);
  await assertAlerts([{ first, last: await door.samples() }], [
    "EtcdPgSyncDrift",
    "EtcdPgSyncVerificationOverdue",
  ]);
});

Deno.test("writes from SQL that lose to etcd", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  await world.etcd.put(world.key("a"), "1");
  await door.untilReady(200);
  const first = await door.samples();
  for (let i = 0; i < 12; i++) await world.sql("select etcd_set($1, '2', 0)", [world.key("a")]);
  await quiet(world);
  await door.untilValue("wal_rows_total", { result: "conflict" }, (rows) => rows === 12);
  await assertAlerts([{ first, last: await door.samples() }], ["EtcdPgSyncConflictsRising"], 5);
});

Deno.test("etcd hangs, the WAL fills", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  const door = new Door();
  await streaming(world, [...door.args, "--fresh-timeout", "5s", "--wal-limit", "1000"]);
  await door.untilReady(200);
  const first = await door.samples();
  server.freeze();
  await world.sql("select etcd_set($1 || n, '1') from generate_series(1, 950) n", [world.key("a")]);
  await door.untilReady(503, /etcd does not answer/);
  await door.untilValue("wal_room_rows", {}, (rows) => rows < 150);
  await door.untilValue("wal_oldest_age_seconds", {}, (age) => age > 4);
  const last = await door.samples();
  await assertAlerts([{ first, last }], [
    "EtcdPgSyncNotFresh",
    "EtcdPgSyncServerDown",
    "EtcdPgSyncWalNearLimit",
    "EtcdPgSyncWalStuck",
  ]);
});

Deno.test("etcd is down, and the leader is another one than before", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  const [one, two] = [new Door(), new Door()];
  const leader = await streaming(world, one.args);
  await one.untilReady(200);
  const first = await one.samples();
  world.program(two.args);
  await two.untilReady(200, /standby/);
  const standby = await two.samples();
  await server.stop();
  await killed(leader);
  await two.untilReady(503, /neither leader nor standby .*Connection refused/);
  await two.untilValue("fresh_age_seconds", {}, (age) => age > 6);
  const last = await two.samples();
  await assertAlerts([{ first, last: undefined }, { first: standby, last }], [
    "EtcdPgSyncDown",
    "EtcdPgSyncNoLeader",
    "EtcdPgSyncServerDown",
    "EtcdPgSyncNotFresh",
  ]);
});

Deno.test("a leader that is frozen: the standby leads, and one instance is down", strict, async () => {
  await using world = await makeWorld();
  const [one, two] = [new Door(), new Door()];
  const leader = await streaming(world, one.args);
  await one.untilReady(200);
  world.program(two.args);
  await two.untilReady(200, /standby/);
  const first = [await one.samples(), await two.samples()];
  leader.kill("SIGSTOP");
  try {
    await two.untilReady(200, /leader/);
    const last = await two.samples();
    await assertAlerts([{ first: first[0], last: undefined }, { first: first[1], last }], ["EtcdPgSyncDown"]);
  } finally {
    leader.kill("SIGCONT");
  }
});

Deno.test("paused", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  await door.untilReady(200);
  const first = await door.samples();
  await world.sql("select etcd_pause('maintenance')");
  await door.untilReady(503, /paused since/);
  await door.untilValue("fresh_age_seconds", {}, (age) => age > 6);
  const last = await door.samples();
  await assertAlerts([{ first, last }], ["EtcdPgSyncPaused"]);
  await world.sql("select etcd_resume()");
  await door.untilReady(200);
});
