/** What happens to PostgreSQL under a running program, and which of several servers it takes. */
import assert from "node:assert/strict";
import { kindOf } from "../../lib/errors.ts";
import { Session as ProgramSession } from "../../lib/postgres/client.ts";
import { judged, quiet, record } from "../support/history.ts";
import { type OwnPostgres, ownPostgres } from "../support/own_postgres.ts";
import { events, streaming, strict, untilStreaming } from "../support/run.ts";
import { programSession } from "../support/schema.ts";
import { eventually, makeWorld, type Program, Session, type World } from "../support/world.ts";

/** One DSN of all of them, in this order. */
function hosts(servers: OwnPostgres[], query = ""): string {
  const { password } = new URL(servers[0].dsn);
  const list = servers.map(({ port }) => `127.0.0.1:${port}`).join(",");
  return `postgres://postgres:${password}@${list}/postgres${query}`;
}

function refused(stderr: string): string {
  const lines = stderr.trimEnd().split("\n").filter((text) => !text.startsWith("{"));
  assert.equal(lines.length, 1, stderr);
  return lines[0];
}

const warnings = (program: Program) => program.logs.filter(({ level }) => level === "warn");

Deno.test(
  "a standby alone is refused with a sentence; beside a primary it is passed over",
  strict,
  async () => {
    await using primary = await ownPostgres();
    const standby = await primary.replica();
    await using outer = await makeWorld();
    await using world = outer.on({ postgresDsn: primary.dsn });
    const alone = await world.run("start", ["-p", standby.dsn]);
    assert.equal(alone.code, 2);
    assert.match(
      refused(alone.stderr),
      new RegExp(
        `: '127.0.0.1:${standby.port}' is a standby, wanted a server that takes writes \\(EPS-204\\)$`,
      ),
    );
    await primary.sql("alter system set default_transaction_read_only = on");
    await primary.sql("select pg_reload_conf()");
    await eventually(async () =>
      (await primary.sql("show default_transaction_read_only"))[0].default_transaction_read_only === "on"
    );
    const neither = await world.run("start", [
      "-p",
      hosts([standby, primary], "?target_session_attrs=primary"),
    ]);
    assert.equal(neither.code, 2);
    assert.match(
      refused(neither.stderr),
      /: none of the hosts takes writes: '127.0.0.1:\d+' is a standby, wanted .*; '127.0.0.1:\d+' is read-only \(default_transaction_read_only\), wanted/,
    );
    await primary.sql("set default_transaction_read_only = off");
    await primary.sql("alter system reset default_transaction_read_only");
    await primary.sql("select pg_reload_conf()");
    await streaming(world, ["-p", hosts([standby, primary])]);
  },
);

Deno.test("a host that does not answer is passed over after connect_timeout", strict, async () => {
  await using primary = await ownPostgres();
  await using outer = await makeWorld();
  await using world = outer.on({ postgresDsn: primary.dsn });
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 }); // it takes the connection and says nothing
  const port = silent.addr.port;
  const dsn = hosts(
    [{ port } as OwnPostgres, primary].map((s) => ({ ...s, dsn: primary.dsn })),
    "?connect_timeout=1",
  );
  await streaming(world, ["-p", dsn]);
  const alone = await world.run("start", ["-p", `postgres://x@127.0.0.1:${port}/x?connect_timeout=1`]);
  assert.equal(alone.code, 2);
  assert.match(refused(alone.stderr), /: no answer within 1 s \(EPS-201\)$/);
});

Deno.test("PG* variables say what the DSN leaves open, or all of it", strict, async () => {
  await using outer = await makeWorld();
  const { hostname, port, username, password, pathname } = new URL(outer.postgresDsn);
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, `${hostname}:${port}:*:${username}:${password}\n`);
    await Deno.chmod(file, 0o600);
    const env = {
      PGHOST: hostname,
      PGPORT: port,
      PGUSER: username,
      PGDATABASE: pathname.slice(1),
      PGPASSFILE: file,
    };
    const program = outer.program(["-p", "postgres://"], env);
    await untilStreaming(outer, program);
    assert.ok(!program.output.some((line) => line.includes("Warning")), program.tail());
    await Deno.writeTextFile(file, "");
    const none = await outer.run("start", ["-p", "postgres://"], env);
    if (password !== "") assert.equal(none.code, 3);
    if (password !== "") assert.match(refused(none.stderr), /asks for a password of user/);
  } finally {
    await Deno.remove(file);
  }
});

/** Commits on the primary, of which the replica hears nothing. */
async function cutReplica(replica: OwnPostgres, primary: OwnPostgres): Promise<void> {
  const [{ lsn }] = await primary.sql("select pg_current_wal_lsn() as lsn");
  await eventually(async () =>
    (await replica.sql("select pg_last_wal_replay_lsn() >= $1 as there", [lsn]))[0].there
  );
  await replica.sql("alter system set primary_conninfo = ''");
  await replica.sql("select pg_reload_conf()");
  await eventually(async () => (await replica.sql("select 1 from pg_stat_wal_receiver")).length === 0);
}

async function promote(replica: OwnPostgres): Promise<void> {
  await replica.sql("select pg_promote()");
}

Deno.test("failover to a replica that had lost the last commits", strict, async () => {
  await using primary = await ownPostgres();
  const replica = await primary.replica();
  await using outer = await makeWorld();
  await using before = outer.on({ postgresDsn: primary.dsn });
  await using after = outer.on({ postgresDsn: replica.dsn });
  const from = await before.etcd.put(before.key("gone"), "0");
  const program = await streaming(before, ["-p", hosts([primary, replica], "?connect_timeout=2")]);
  await before.sql("select etcd_set($1, '1')", [before.key("a")]);
  await quiet(before);
  // committed on both, and pending on the replica for ever: the drain's settlements no longer reach it
  const held = await holdDrainOf(before);
  for (const [key, value] of [["a", "2"], ["b", "1"]]) {
    await before.sql("select etcd_set($1, $2)", [before.key(key), value]);
  }
  await before.sql("select etcd_delete($1)", [before.key("gone")]);
  await cutReplica(replica, primary);
  await held();
  await before.etcd.put(before.key("c"), "1");
  await quiet(before);
  const [{ lost }] = await before.sql("select etcd_set($1, 'lost') as lost", [before.key("lost")]);
  await quiet(before);
  assert.ok(lost > 0);
  await primary.stop("SIGKILL");
  await promote(replica);
  await after.sql("select etcd_set($1, '3')", [after.key("a")]);
  await quiet(after, 40_000);
  const run = await record(after, { from });
  // the write that the replica never had is etcd's own now: it is in the mirror, and in no WAL
  assert.equal(String((await after.etcd.get(after.key("lost")))?.value), "lost");
  assert.deepEqual(run.wal.map(({ status }) => status), Array(5).fill("success"));
  const values = await after.sql("select key, value from etcd order by key");
  assert.deepEqual(values.map(({ key, value }) => [key.slice(after.prefix.length), value]), [
    ["a", "3"],
    ["b", "1"],
    ["c", "1"],
    ["lost", "lost"],
  ]);
  const puts = (await after.etcd.history(after.key("b"), from)).length;
  assert.equal(puts, 1, "it was applied a second time");
  assert.equal((await events(after, "commits-lost")).length, 1);
  assert.ok(warnings(program).length > 0);
});

/** The drain stands still, the WAL's writers do not. */
async function holdDrainOf(world: World): Promise<() => Promise<void>> {
  const holder = world.session();
  await holder.sql("begin");
  await holder.sql("select from etcd_sync_state for update");
  return async () => void await holder.sql("commit");
}

Deno.test("PostgreSQL is restarted, immediately: the program goes on", strict, async () => {
  await using server = await ownPostgres();
  await using outer = await makeWorld();
  await using world = outer.on({ postgresDsn: server.dsn });
  const from = await world.etcd.put(world.key("a"), "1");
  const program = await streaming(world);
  await server.stop("SIGQUIT");
  await world.etcd.put(world.key("a"), "2");
  await program.until((line) => line.level === "warn" && line.kind === "connection");
  await server.start();
  await eventually(() => world.sql("select etcd_set($1, '1')", [world.key("b")]));
  await judged(world, { from });
  const begun = warnings(program).filter(({ msg }) => msg === "begins anew");
  assert.equal(begun.length, 1, "one line an episode");
});

Deno.test("all its backends are terminated, again and again", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await streaming(world);
  for (let i = 0; i < 5; i++) {
    await world.etcd.put(world.key("down"), String(i));
    await world.sql("select etcd_set($1, $2)", [world.key("up"), String(i)]);
    await world.sql(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'etcd-pg-sync %' and datname = current_database()",
    );
  }
  const { wal } = await judged(world, { from });
  assert.deepEqual(wal.map(({ status }) => status), Array(5).fill("success"));
});

Deno.test("PostgreSQL is out of connections: the program waits, and goes on", strict, async () => {
  await using server = await ownPostgres({ max_connections: "12", superuser_reserved_connections: "0" });
  await using outer = await makeWorld();
  await using world = outer.on({ postgresDsn: server.dsn });
  const from = await world.etcd.put(world.key("a"), "1");
  const program = await streaming(world, ["--log-level", "debug"]);
  await world.sql("select 1");
  // ends the program's sessions, and takes their places
  const taken: Session[] = [];
  try {
    for (let full = false; !full;) {
      await world.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'etcd-pg-sync %'",
      );
      const session = new Session(world.postgresDsn);
      taken.push(session);
      full = await session.sql("select 1").then(() => false, (error) => error.code === "53300");
    }
    await world.sql(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'etcd-pg-sync %'",
    );
    await world.etcd.put(world.key("a"), "2");
    await program.until((line) => /too many clients/.test(line.error));
  } finally {
    for (const session of taken) await session[Symbol.asyncDispose]();
  }
  await judged(world, { from });
});

/** A session whose server process is frozen in the middle of a statement: it neither answers nor hangs up. */
Deno.test("a statement that gets no answer breaks its session, and is a lost answer", strict, async () => {
  await using server = await ownPostgres();
  const options = { dsn: server.dsn, schema: "public", applicationName: "test", statementSeconds: 1 };
  await using session = await ProgramSession.open(options);
  await assert.rejects(session.run("slow", "select pg_sleep(60)"), { code: "57014" });
  assert.equal(session.broken, undefined, "the server answered: it has cut it short");
  const patient = await session.transaction(
    () => session.run("patient", "select 1 as one from pg_sleep(1.5)"),
    { patient: true },
  );
  assert.deepEqual(patient, [{ one: 1 }]);
  Deno.kill(session.pid, "SIGSTOP");
  try {
    const [first, second] = await Promise.allSettled([
      session.run("hangs", "select 1"),
      session.script("select 2"),
    ]);
    for (const ended of [first, second]) {
      assert.equal(ended.status, "rejected");
      assert.equal(kindOf(ended.reason), "connection");
      assert.match(ended.reason.message, /^no answer from PostgreSQL within 6 s$/);
    }
    await assert.rejects(session.run("again", "select 1"), /^ConnectionError: no answer from PostgreSQL/);
  } finally {
    Deno.kill(session.pid, "SIGCONT");
  }
});

Deno.test("a session that is abandoned gives its waiters the reason", strict, async () => {
  await using world = await makeWorld();
  await using session = await programSession(world);
  const waiting = session.run("waits", "select pg_sleep(60)");
  session.abandon(new Error("the place is lost"));
  await assert.rejects(waiting, /^Error: the place is lost$/);
});

Deno.test("PostgreSQL's session settings are what the program needs", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  const named = async () =>
    (await world.sql(
      "select application_name from pg_stat_activity where datname = current_database() and application_name <> ''",
    )).map(({ application_name }) => application_name);
  // place, mirror, drain and housekeeping
  await eventually(async () => (await named()).length === 4);
  assert.deepEqual(new Set(await named()), new Set(["etcd-pg-sync default"]));
});
