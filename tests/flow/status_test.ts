/** `status` on real servers, healthy and broken: its text, its JSON, its exit code. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Status } from "../../lib/core/status.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { quiet } from "../support/history.ts";
import { Program } from "../support/program.ts";
import { heldScan, hold, killed, streaming, strict } from "../support/run.ts";
import { installed } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { type EtcdDoor, eventually, makeWorld, type World } from "../support/world.ts";
import { withUsers } from "../support/etcd_users.ts";

/** What `status --format json` says, and ends with. */
async function look(world: World, args: string[] = []): Promise<Status> {
  const { code, stdout, stderr } = await world.run("status", ["--format", "json", ...args]);
  assert.equal(stderr, "");
  const status = JSON.parse(stdout) as Status;
  assert.equal(code, status.exit_code, stdout);
  assert.equal(status.healthy, code === 0);
  return status;
}

/** Without the bugs that this version of etcd is known for. */
function codes({ findings }: Status): string[] {
  return findings.map(({ code }) => code).filter((code) => code !== "EPS-711");
}

/** The text's lines, which must be one finding more than none where `code` is given; no secret and no stack. */
async function screenOf(world: World, exit: number, args: string[] = []): Promise<string> {
  const { code, stdout, stderr } = await world.run("status", args);
  assert.equal(stderr, "");
  assert.equal(code, exit, stdout);
  assert.doesNotMatch(stdout, /hunter2|^\s+at |undefined|NaN|\[object/m);
  return stdout;
}

/** Looks until these findings are there, among others. */
function until(world: World, wanted: string[]): Promise<Status> {
  return eventually(async () => {
    const status = await look(world);
    const found = codes(status);
    if (wanted.every((code) => found.includes(code))) return status;
    throw new Error(`it finds ${found.join(", ") || "nothing"}`);
  }, { timeoutMs: 40_000 });
}

const told = (status: Status, code: string) => status.findings.find((finding) => finding.code === code)!.text;

Deno.test("status of a healthy stream with a standby", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  await streaming(world);
  const second = world.program();
  await second.until((line) => line.msg.startsWith("standing by"));
  await world.sql("select etcd_set($1, '2')", [world.key("b")]);
  await quiet(world);
  // the first proof of a new leader comes within a second
  const status = await eventually(async () => {
    const status = await look(world);
    return status.healthy ? status : undefined;
  });
  const { postgres: { report, version }, etcd } = status;
  assert.deepEqual(codes(status), []);
  assert.equal(report!.stream!.prefix, world.prefix);
  assert.equal(report!.stream!.change!.event, "caught-up");
  assert.equal(report!.stream!.cluster_id, etcd.cluster_id);
  assert.deepEqual(report!.wal.settled, { success: 1 });
  assert.equal(report!.leader!.epoch, 1);
  assert.deepEqual(report!.instances.map(({ leader }) => leader), [true, false]);
  const sessions = await world.sql("select holder_pids from etcd_sync_state");
  assert.ok(sessions[0].holder_pids.includes(report!.instances[0].pid));
  assert.ok(!sessions[0].holder_pids.includes(report!.instances[1].pid));
  assert.match(version!, /^\d+\.\d+$/);
  assert.equal(etcd.endpoints[0].member!.version, await world.etcd.version());
  assert.ok(etcd.endpoints[0].member!.db_bytes > 0);
  assert.deepEqual([etcd.alarms, etcd.members!.length], [[], 1]);

  const text = await screenOf(world, 0);
  assert.match(text, /^Stream 'default' is healthy(: 2 warnings)? \(/);
  for (
    const line of [
      "state +streaming since",
      "writer .*epoch 1",
      "standbys +\\S",
      "mirror +revision",
      "WAL +0 pending",
    ]
  ) {
    assert.match(text, new RegExp(`^${line}`, "m"));
  }
});

Deno.test("status without PostgreSQL shows etcd, and ends with 2", strict, async () => {
  await using world = await makeWorld();
  const dsn = `postgres://me:hunter2@127.0.0.1:${freePort()}/db`;
  const status = await look(world, ["-p", dsn]);
  assert.deepEqual(codes(status), ["EPS-201"]);
  assert.match(
    told(status, "EPS-201"),
    /^Cannot use PostgreSQL at 'postgres:\/\/me@127\.0\.0\.1:\d+\/db': .*ECONNREFUSED/,
  );
  assert.equal(status.exit_code, 2);
  assert.ok(status.etcd.revision! > 0);
  assert.doesNotMatch(JSON.stringify(status), /hunter2/);
  const text = await screenOf(world, 2, ["-p", dsn]);
  assert.match(text, /^Stream 'default' is NOT healthy: 1 problem[ ,]/);
  assert.match(text, /^EPS-201 .*\n +→ /m);
  assert.match(text, /^etcd +\d/m);
});

Deno.test("status without etcd shows PostgreSQL, and ends with 2", strict, async () => {
  await using world = await makeWorld();
  await killed(await streaming(world));
  const dsn = `etcd://me:hunter2@127.0.0.1:${freePort()}${world.prefix}`;
  const status = await look(world, ["-e", dsn]);
  assert.ok(codes(status).includes("EPS-211"), JSON.stringify(status.findings));
  assert.equal(status.exit_code, 2);
  assert.equal(status.postgres.report!.stream!.state, "streaming");
  assert.match(await screenOf(world, 2, ["-e", dsn]), /^state +streaming/m);
});

Deno.test("status where nothing, or an older version, is installed", strict, async () => {
  await using world = await makeWorld();
  assert.deepEqual(codes(await look(world)), ["EPS-101"]);
  assert.match(await screenOf(world, 1), /^EPS-101 Schema 'public' holds no stream\n/m);
  assert.deepEqual(codes(await look(world, ["--schema", "nowhere"])), ["EPS-101"]);
  await world.sql("create table etcd_sync_migration (number integer primary key)");
  await world.sql("insert into etcd_sync_migration values (1)");
  const status = await look(world);
  assert.deepEqual([codes(status), status.exit_code], [["EPS-102"], 1]);
});

Deno.test("status of another stream, or another prefix, than the schema holds", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  assert.match(
    told(await look(world, ["--stream", "other"]), "EPS-104"),
    /holds stream 'default', asked for was 'other'/,
  );
  const status = await look(world, ["-e", `${world.etcdDsn}deeper/`]);
  assert.match(told(status, "EPS-104"), /mirrors prefix '.*', 'etcd-dsn' says '.*deeper\/'/);
  assert.equal(status.exit_code, 1);
});

Deno.test("a role needs the right to one function", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  const role = `r_${world.database}`;
  await world.sql(`create role ${role} login password 'hunter2'`);
  try {
    await world.sql("revoke usage on schema public from public");
    const dsn = new URL(world.postgresDsn);
    [dsn.username, dsn.password] = [role, "hunter2"];
    const args = ["-p", dsn.href];
    const outside = await look(world, args);
    assert.deepEqual([codes(outside), outside.exit_code], [["EPS-302"], 3]);
    await world.sql(`grant usage on schema public to ${role}`);
    assert.match(told(await look(world, args), "EPS-302"), /permission denied for function etcd_sync_status/);
    await world.sql(`grant execute on function etcd_sync_status() to ${role}`);
    const status = await look(world, args);
    assert.equal(status.postgres.report!.stream!.name, "default");
    assert.deepEqual(codes(status), ["EPS-601", "EPS-603"]);
  } finally {
    await world.sql(`drop owned by ${role}`);
    await world.sql(`drop role ${role}`);
  }
});

Deno.test(
  "status with a user that may not read in etcd ends with 3, and shows the rest",
  strict,
  async () => {
    await using server = await ownEtcd();
    await using world = await makeWorld();
    await withUsers(server);
    const dsn = (login: string) => `${server.dsn.replace("//", `//${login}@`)}${world.prefix.slice(1)}`;
    const status = await look(world, ["-e", dsn("weak:weakpw")]);
    assert.deepEqual([codes(status), status.exit_code], [["EPS-101", "EPS-312"], 1]);
    assert.ok(status.etcd.endpoints[0].member!.version);
    await installed(world, { prefix: world.prefix });
    const denied = await look(world, ["-e", dsn("weak:weakpw")]);
    assert.equal(denied.exit_code, 3);
    assert.match(told(denied, "EPS-312"), /permission denied/);
    const wrong = await look(world, ["-e", dsn("weak:hunter2")]);
    assert.deepEqual([wrong.exit_code, codes(wrong)[0]], [3, "EPS-312"]);
  },
);

Deno.test("no instance runs", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world);
  program.kill("SIGTERM");
  await program.status;
  const status = await look(world);
  assert.ok(codes(status).includes("EPS-601"));
  assert.match(told(status, "EPS-601"), /^No instance runs/);
  assert.equal(status.exit_code, 6);
  assert.match(await screenOf(world, 6), /^writer +none$/m);
});

Deno.test("a frozen writer: its place is lost, and the mirror stale", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world);
  await program.until(async () => (await world.state())!.fresh_at !== null);
  program.kill("SIGSTOP");
  try {
    await world.etcd.put(world.key("a"), "1");
    const status = await until(world, ["EPS-601", "EPS-602"]);
    assert.match(told(status, "EPS-601"), /^The writer's lease ran out .*; no other instance runs$/);
    assert.match(
      told(status, "EPS-602"),
      /^The mirror was proved fresh .* ago, .*; it is \d+ revisions? behind etcd$/,
    );
    assert.equal(status.exit_code, 6);
    assert.match(await screenOf(world, 6), /^writer .*, lease ran out /m);
  } finally {
    program.kill("SIGCONT");
  }
});

Deno.test("only a standby, that cannot take over", strict, async () => {
  await using world = await makeWorld();
  const first = await streaming(world);
  const second = world.program();
  await second.until((line) => line.msg.startsWith("standing by"));
  const release = await hold(world.session(), "select from etcd_sync_state for update");
  await killed(first);
  const status = await until(world, ["EPS-601"]);
  assert.match(told(status, "EPS-601"), /; 1 standby should take over$/);
  assert.equal(status.postgres.report!.instances.filter(({ leader }) => !leader).length, 1);
  await release();
  await eventually(async () => (await look(world)).healthy, { timeoutMs: 40_000 });
});

Deno.test("a bootstrap under way", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  const { release } = await heldScan(world);
  const status = await until(world, ["EPS-603", "EPS-706"]); // it names who holds it up, too
  assert.match(told(status, "EPS-603"), /\(state 'bootstrap'\): no page is in yet$/);
  assert.equal(status.exit_code, 6);
  assert.match(await screenOf(world, 6), /^state +bootstrap since .*: first start$/m);
  await release();
  await world.untilState("streaming");
});

Deno.test("who holds the mirror up is named", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  const session = world.session();
  const [{ pid }] = await session.sql("select pg_backend_pid() as pid");
  const release = await hold(session, "lock table etcd_kv in access exclusive mode");
  await world.etcd.put(world.key("a"), "1");
  const status = await until(world, ["EPS-706"]);
  assert.match(told(status, "EPS-706"), new RegExp(`^Locks of session ${pid} of '.*`));
  await release();
});

Deno.test("status does not wait for somebody's lock on the state", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  const release = await hold(world.session(), "lock table etcd_sync_state in access exclusive mode");
  const status = await look(world);
  assert.deepEqual([codes(status), status.exit_code], [["EPS-403"], 4]);
  assert.match(told(status, "EPS-403"), /: locks on the stream's tables stand in the way, of session \d+$/);
  await release();
});

Deno.test("a paused stream", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  await world.sql("select etcd_pause('maintenance')");
  const status = await look(world);
  assert.deepEqual(codes(status), ["EPS-610", "EPS-601"]);
  assert.match(told(status, "EPS-610"), /: maintenance$/);
  await world.sql("select etcd_resync()");
  const text = await screenOf(world, 6);
  assert.match(text, /^state +PAUSED since /m);
  assert.match(text, /^resync +1 of prefix .*, not started$/m);
});

Deno.test("conflicts and failures are shown with their keys, and change no exit code", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd(["--max-request-bytes=100000"]);
  await using world = outer.on(server);
  const program = await streaming(world);
  await world.sql("select etcd_set($1, 'x', 4711)", [world.key("lost")]);
  await world.sql("select etcd_set($1, repeat('x', 200000))", [world.key("large")]);
  await quiet(world);
  for (const code of ["EPS-704", "EPS-705"]) await program.until((line) => line.code === code);
  const status = await until(world, ["EPS-704", "EPS-705"]);
  assert.match(told(status, "EPS-704"), new RegExp(`ticket 1 \\('${world.key("lost")}'\\)$`));
  assert.match(told(status, "EPS-705"), new RegExp(`ticket 2 \\('${world.key("large")}'\\)$`));
  assert.equal(status.exit_code, 0, JSON.stringify(status.findings));
  assert.deepEqual(status.postgres.report!.losses.newest.map(({ kind, open }) => `${kind} ${open}`).sort(), [
    "conflict true",
    "failed true",
  ]);
  const text = await screenOf(world, 0);
  assert.match(text, /^Stream 'default' is healthy: [24] warnings/);
  assert.match(text, /request is too large/);

  await world.sql("select etcd_discard(1)");
  await world.sql("select etcd_discard(2)");
  assert.deepEqual(codes(await look(world)), []);
});

/** Puts outside of every prefix until etcd raises its alarm. */
async function fill(etcd: EtcdDoor): Promise<void> {
  const chunk = Buffer.alloc(1 << 20, "x");
  await assert.rejects(async () => {
    for (let i = 0;; i++) await etcd.put(`filler/${i}`, chunk);
  }, /database space exceeded/);
}

Deno.test("etcd without space: the alarm, and the write that waits", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd([`--quota-backend-bytes=${16 << 20}`]);
  await using world = outer.on(server);
  const program = await streaming(world);
  await quiet(world);
  await fill(world.etcd);
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  await program.until((line) => line.code === "EPS-605");
  // as if it had been written two minutes ago
  await world.sql(
    `do $$ begin
       update etcd_wal set ts = ts - interval '2 minutes';
       update etcd_wal_tx set ts = ts - interval '2 minutes';
     end $$`,
  );
  // the mirror is none of it: it is fresh again once etcd has synced what filled it
  const status = await eventually(async () => {
    const status = await look(world);
    return codes(status).includes("EPS-602") ? undefined : status;
  }, { timeoutMs: 40_000 });
  assert.deepEqual(codes(status).filter((code) => code < "EPS-7"), ["EPS-606", "EPS-604"]);
  assert.match(told(status, "EPS-606"), /^etcd has raised NOSPACE for member 'default'/);
  assert.match(
    told(status, "EPS-604"),
    new RegExp(`^1 write from SQL waits for etcd, .*key '${world.key("a")}'\\) for (12\\d s|2 min)$`),
  );
  assert.equal(status.exit_code, 6);
  assert.match(await screenOf(world, 6), /^ +alarms: NOSPACE; /m);
});

Deno.test("a long queue is not counted to its end", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: "/" });
  await world.sql(
    `insert into etcd_wal (txid, ts, key, value, timeline, revision, seen_revision)
     select n::text::xid8, now(), '/' || n, '', 1, 0, 0 from generate_series(1000000001, 1000010001) n`,
  );
  await world.sql("insert into etcd_wal_tx (seq, txid, ts, first_id) select id, txid, ts, id from etcd_wal");
  const wal = async () => (await world.sql("select etcd_sync_status() -> 'wal' as wal"))[0].wal;
  const { pending, pending_is_estimate } = await wal();
  assert.deepEqual([pending, pending_is_estimate], [10_001, true]);
  await world.sql("delete from etcd_wal_tx where seq = 1");
  const counted = await wal();
  assert.deepEqual([counted.pending, counted.pending_is_estimate], [10_000, false]);
});

Deno.test("--watch goes on until SIGINT, one JSON value on a line", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  const args = ["-p", world.postgresDsn, "-e", world.etcdDsn, "--watch"];
  await using json = new Program(["status", ...args, "--format", "json"]);
  await json.until(() => json.logs.length >= 2);
  json.kill("SIGINT");
  assert.deepEqual(await json.status, { code: 6, signal: null });
  assert.ok(json.output.every((line) => JSON.parse(line).exit_code === 6));

  await using text = new Program(["status", ...args]);
  const verdicts = () => text.output.filter((line) => line.startsWith("Stream 'default' is NOT healthy"));
  await text.until(() => verdicts().length >= 2);
  text.kill("SIGINT");
  assert.equal((await text.status).code, 6);
  assert.ok(!text.output.join("").includes("\x1b"), "no terminal, no escapes");
});

Deno.test("status with flags that are wrong", strict, async () => {
  await using world = await makeWorld();
  const { code, stdout, stderr } = await world.run("status", ["--format", "xml"]);
  assert.deepEqual([code, stdout], [1, ""]);
  assert.match(stderr, /^etcd-pg-sync: .*'xml' is invalid.* \(EPS-100\)\n$/);
});
