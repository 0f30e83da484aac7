/** `config` and `config check`: what they print, their exit codes, and that they write nothing. */
import assert from "node:assert/strict";
import { freePort } from "../../lib/embedded/ready.ts";
import { runProgram } from "../support/program.ts";
import { killed, streaming, strict } from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { makeWorld, type World } from "../support/world.ts";
import { guarded, loose } from "../support/guarded_etcd.ts";

interface Finding {
  server: string;
  state: string;
  kind?: string;
  what: string;
  remedy?: string[];
}

async function check(world: World, args: string[] = []) {
  const { code, stdout, stderr } = await world.run("config", ["--format", "json", ...args]);
  assert.equal(stderr, "");
  return { code, findings: JSON.parse(stdout).findings as Finding[] };
}

const bad = (findings: Finding[]) => findings.filter(({ state }) => state === "wrong");

Deno.test(
  "config shows each value and its source, as text and as JSON, without a server",
  strict,
  async () => {
    const file = await Deno.makeTempFile({ suffix: ".yaml" });
    try {
      await Deno.writeTextFile(file, "schema: of-file\netcd-dsn: etcd://me:hunter2@etcd/app/\n");
      const args = ["config", "--config", file, "--max-deletes", "5"];
      const env = { ETCD_PG_SYNC_STREAM: "of-variable", PGHOST: "db", PGPASSWORD: "hunter2" };
      const text = await runProgram(args, env);
      assert.equal(text.code, 0, text.stderr);
      const row = (name: string) =>
        text.stdout.split("\n").find((line) => line.startsWith(`${name} `))!.split(/\s{2,}/);
      assert.deepEqual(row("schema"), ["schema", "of-file", `${file}:1`]);
      assert.deepEqual(row("etcd-dsn"), ["etcd-dsn", "etcd://me@etcd/app/", `${file}:2`]);
      assert.deepEqual(row("max-deletes"), ["max-deletes", "5", "--max-deletes"]);
      assert.deepEqual(row("stream"), ["stream", "of-variable", "ETCD_PG_SYNC_STREAM"]);
      assert.deepEqual(row("wal-limit"), ["wal-limit", "1000000", "default"]);
      assert.match(text.stdout, /for what the DSNs leave out:\n {2}PGHOST=db\n {2}PGPASSWORD=…/);
      const json = await runProgram([...args, "--format", "json"], env);
      const { settings, variables } = JSON.parse(json.stdout);
      assert.deepEqual(settings.find(({ name }: { name: string }) => name === "schema"), {
        name: "schema",
        value: "of-file",
        source: "file",
        from: `${file}:1`,
      });
      assert.equal(variables.PGPASSWORD, "…");
      assert.ok(!(text.stdout + json.stdout).includes("hunter2"));
    } finally {
      await Deno.remove(file);
    }
  },
);

Deno.test("config refuses what start would refuse", strict, async () => {
  const { code, stdout, stderr } = await runProgram(["config", "-e", "http://h/"]);
  assert.equal(
    stderr,
    "etcd-pg-sync: Cannot read 'etcd-dsn' from --etcd-dsn: scheme must be 'etcd', got 'http' in 'http://h/' (EPS-100)\n",
  );
  assert.deepEqual([code, stdout], [1, ""]);
});

Deno.test(
  "config check: all is right before and after the installation, and nothing is written",
  strict,
  async () => {
    await using world = await makeWorld();
    const before = await world.etcd.revision();
    const first = await check(world, ["check"]);
    assert.deepEqual([first.code, bad(first.findings)], [0, []]);
    assert.equal(await world.etcd.revision(), before);
    assert.deepEqual(await world.sql("select 1 from pg_class where relname like 'etcd%'"), []);
    const text = await world.run("config", ["check"]);
    assert.match(text.stdout, /^PostgreSQL\n {2}ok {6}version \d+.*\n[\s\S]*\netcd\n {2}ok {6}version \d/);

    await killed(await streaming(world));
    const marker = await world.etcd.get("/_etcd-pg-sync/default");
    const installed = await check(world, ["check"]);
    assert.deepEqual([installed.code, bad(installed.findings)], [0, []]);
    assert.ok(
      installed.findings.some(({ what }) =>
        what.includes(`holds stream 'default' on prefix '${world.prefix}'`)
      ),
    );
    assert.equal((await world.etcd.get("/_etcd-pg-sync/default"))?.mod_revision, marker?.mod_revision);
  },
);

Deno.test("config check: no server", strict, async () => {
  await using world = await makeWorld();
  const [pg, etcd] = [freePort(), freePort()];
  const noEtcd = await check(world, ["-e", `etcd://127.0.0.1:${etcd}/x/`, "check"]);
  assert.equal(noEtcd.code, 2);
  assert.deepEqual(bad(noEtcd.findings).map(({ server, kind }) => [server, kind]), [["etcd", "connection"]]);
  assert.match(bad(noEtcd.findings)[0].what, new RegExp(`^127.0.0.1:${etcd}: Connection refused$`));
  const neither = await check(world, [
    ...["-p", `postgres://me:hunter2@127.0.0.1:${pg}/db`, "-e", `etcd://127.0.0.1:${etcd}/x/`],
    "check",
  ]);
  assert.equal(neither.code, 2);
  assert.equal(bad(neither.findings).length, 2);
  assert.ok(!JSON.stringify(neither.findings).includes("hunter2"));

  const [host] = world.etcdDsn.split("/").slice(2);
  const one = await check(world, ["-e", `etcd://127.0.0.1:${etcd},${host}/x/`, "check"]);
  assert.equal(one.code, 0, "one server of two is enough");
  assert.ok(
    one.findings.some(({ state, what }) => state === "advice" && what.includes("Connection refused")),
  );
});

/** What `config check` says to grant is granted, and then it says that all is right. */
async function grantedAsSaid(
  world: World,
  args: string[],
  grant: (statement: string) => Promise<unknown>,
): Promise<Finding[]> {
  const before = await check(world, args);
  assert.equal(before.code, 3, JSON.stringify(before.findings));
  for (const { kind, remedy } of bad(before.findings)) {
    assert.equal(kind, "permission");
    for (const statement of remedy!) await grant(statement);
  }
  const after = await check(world, args);
  assert.deepEqual([after.code, bad(after.findings)], [0, []]);
  return bad(before.findings);
}

Deno.test(
  "config check: a PostgreSQL user without rights, and the statements that grant them",
  strict,
  async () => {
    await using world = await makeWorld();
    const role = `poor_${world.database}`;
    await world.sql(`create role ${role} login password 'hunter2'; create schema theirs`);
    try {
      const dsn = new URL(world.postgresDsn);
      [dsn.username, dsn.password] = [role, "hunter2"];
      const sql = (statement: string) => world.sql(statement);
      for (const schema of ["theirs", "not there", 'qu"oted']) {
        await grantedAsSaid(world, ["-p", dsn.href, "--schema", schema, "check"], sql);
      }
      // what another user has installed
      await killed(await streaming(world));
      await world.sql(`grant usage, create on schema public to ${role}`);
      const [owner] = await grantedAsSaid(world, ["-p", dsn.href, "check"], sql);
      assert.match(owner.what, /^what is installed in schema 'public' belongs to '\w+', not to user 'poor_/);
    } finally {
      await world.sql(`drop owned by ${role} cascade; drop role ${role}`);
    }
  },
);

Deno.test(
  "config check: no such database, no such role; another encoding; another stream",
  strict,
  async () => {
    await using world = await makeWorld({ encoding: "LATIN1" });
    const latin = await check(world, ["check"]);
    assert.equal(latin.code, 1);
    assert.match(bad(latin.findings)[0].what, /its encoding must be 'UTF8', it is 'LATIN1'/);
    assert.match(
      bad(latin.findings)[0].remedy![0],
      /^CREATE DATABASE ".*" ENCODING 'UTF8' TEMPLATE template0;$/,
    );
    const dsn = new URL(world.postgresDsn);
    dsn.pathname = "/nothere";
    const missing = await check(world, ["-p", dsn.href, "check"]);
    assert.equal(missing.code, 2);
    assert.match(bad(missing.findings)[0].remedy![0], /^CREATE DATABASE "nothere" OWNER /);

    await using other = await makeWorld();
    await killed(await streaming(other));
    const deeper = await check(other, ["-e", `${other.etcdDsn}deeper/`, "check"]);
    assert.equal(deeper.code, 1);
    assert.match(
      bad(deeper.findings)[0].what,
      /holds stream 'default' on prefix '.*', not 'default' on '.*deeper\/'/,
    );
    await other.etcd.put("/_etcd-pg-sync/default", "of somebody else");
    const foreign = await check(other, ["check"]);
    assert.equal(foreign.code, 1);
    assert.match(bad(foreign.findings)[0].what, /another installation writes it/);
  },
);

Deno.test("config check: limits of etcd", strict, async () => {
  await using world = await makeWorld();
  const { code, findings } = await check(world, ["--max-txn-ops", "500", "check"]);
  assert.equal(code, 1);
  assert.deepEqual(bad(findings).map(({ what }) => what), [
    "it takes 128 operations in one transaction, and 'max-txn-ops' is 500",
  ]);
  await using etcd = await ownEtcd(["--max-request-bytes=1000000", "--max-txn-ops=500"]);
  await using tight = world.on(etcd);
  const small = await check(tight, ["--max-txn-ops", "500", "check"]);
  assert.equal(small.code, 1);
  assert.deepEqual(bad(small.findings).map(({ what }) => what), [
    "it takes no requests of 1500000 bytes, which is below etcd's default",
  ]);
});

Deno.test("config check: an etcd user without rights, and the commands that grant them", loose, async () => {
  await using etcd = await guarded();
  const { world, ctl } = etcd;
  const grant = (line: string) => {
    const [program, ...args] = line.split(" ");
    assert.equal(program, "etcdctl");
    return ctl(args);
  };
  const before = await world.etcd.revision();
  await ctl(["user", "add", "poor:hunter2"]);
  const all = await grantedAsSaid(world, ["-e", etcd.dsn("poor:hunter2"), "check"], async (line) => {
    await grant(line).catch((error) => assert.match(error.message, /already/)); // each finding says all of it
  });
  assert.deepEqual(all.map(({ what }) => what), [
    "it may not read the keys under '/app/'",
    "it may not read the marker '/_etcd-pg-sync/default'",
    "it may not write the keys under '/app/'",
    "it may not write the marker '/_etcd-pg-sync/default'",
  ]);
  assert.equal(await world.etcd.revision(), before, "nothing was written");

  // a role of its own, which may read
  await ctl(["user", "add", "reader:hunter2"]);
  await ctl(["role", "add", "readers"]);
  await ctl(["user", "grant-role", "reader", "readers"]);
  await ctl(["role", "grant-permission", "readers", "read", "--prefix=true", "/app/"]);
  const reader = ["-e", etcd.dsn("reader:hunter2")];
  const oneWay = await check(world, [...reader, "--one-way", "check"]);
  assert.deepEqual([oneWay.code, bad(oneWay.findings)], [0, []], "a mirror only reads");
  const lacks = await grantedAsSaid(world, [...reader, "check"], grant);
  assert.deepEqual(lacks.map(({ remedy }) => remedy), [
    ["etcdctl role grant-permission readers readwrite /_etcd-pg-sync/default"],
    ["etcdctl role grant-permission readers readwrite --prefix=true /app/"],
    ["etcdctl role grant-permission readers readwrite /_etcd-pg-sync/default"],
  ]);

  const login = await check(world, ["-e", etcd.dsn("poor:wrong"), "check"]);
  assert.equal(login.code, 3);
  const none = await check(world, ["check"]);
  assert.equal(none.code, 3);
  assert.match(JSON.stringify(bad(none.findings)), /etcd wants a user/);
});
