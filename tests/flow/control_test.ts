/** What operators ask of a running stream: pause and resume. */
import assert from "node:assert/strict";
import { quiet } from "../support/history.ts";
import { events, killed, renewals, streaming, strict, untilStreaming } from "../support/run.ts";
import { installed } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld, type Program, type World } from "../support/world.ts";

const paused = (program: Program) => program.until((line) => line.msg.startsWith("paused:"));

async function status(world: World, id: number): Promise<string> {
  return (await world.sql("select status from etcd_wal where id = $1", [id]))[0].status;
}

async function set(world: World, name: string): Promise<number> {
  return (await world.sql("select etcd_set($1, 'from sql') as id", [world.key(name)]))[0].id;
}

Deno.test(
  "a paused stream mirrors and sends nothing, keeps its place, and goes on where it was",
  strict,
  async () => {
    await using world = await makeWorld();
    const program = await streaming(world);
    await set(world, "before");
    await quiet(world);
    const ended = await world.run("pause", ["--reason", "maintenance"]);
    assert.deepEqual([ended.code, ended.stderr], [0, ""]);
    assert.match(ended.stdout, /^Stream 'default' is paused/);
    await paused(program);
    const before = (await world.state())!;
    const put = await world.etcd.put(world.key("a"), "1");
    const id = await set(world, "b");
    await renewals(world, 2);
    const during = (await world.state())!;
    assert.deepEqual([during.epoch, during.revision], [before.epoch, before.revision]);
    assert.ok(before.revision < put);
    assert.equal(await status(world, id), "pending");
    assert.equal(await world.etcd.get(world.key("b")), undefined);

    assert.match((await world.run("pause")).stdout, /was paused before/);
    const json = async (command: string) => {
      const { code, stdout } = await world.run(command, ["--format", "json"]);
      return [code, JSON.parse(stdout)];
    };
    assert.deepEqual(await json("pause"), [0, { paused: true, changed: false }]);
    const resumed = await world.run("resume");
    assert.deepEqual([resumed.code, resumed.stdout], [0, "Stream 'default' goes on\n"]);
    await quiet(world);
    assert.equal(await status(world, id), "success");
    assert.equal((await world.state())!.epoch, before.epoch);
    assert.match((await world.run("resume")).stdout, /was not paused/);
    assert.deepEqual(await json("resume"), [0, { paused: false, changed: false }]);
    const [told] = await events(world, "paused");
    assert.equal(told.detail.reason, "maintenance");
    assert.ok(told.detail.by);
    assert.equal((await events(world, "resumed")).length, 1);
  },
);

// What the last takeover knew of the marker is old by then: read as PostgreSQL's lost commits, the marker's whole history
// was walked back, and the place given up.
Deno.test("a pause after many batches settles what is in flight, and keeps the place", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  const program = await streaming(world);
  for (let n = 0; n < 3; n++) await world.sql("select etcd_wait($1)", [await set(world, `before-${n}`)]);
  await quiet(world);
  const { epoch } = (await world.state())!;
  server.freeze();
  const sent = await set(world, "a");
  await eventually(async () => (await world.state())!.batch_rows.length === 1);
  const waits = await set(world, "b");
  await world.sql("select etcd_pause()");
  await renewals(world, 2); // each looks whether it is paused
  server.wake();
  await paused(program);
  assert.deepEqual([await status(world, sent), await status(world, waits)], ["success", "pending"]);
  const [{ parked }] = await world.sql("select parked from etcd_sync_gate");
  assert.equal(parked, false, "nobody listens: writers need not notify");
  await world.sql("select etcd_resume()");
  await world.sql("select etcd_wait($1)", [waits]);
  assert.equal((await world.state())!.epoch, epoch);
  assert.deepEqual(program.logs.filter((line) => line.msg === "begins anew"), []);
});

Deno.test("a pause outlasts the program, and holds a bootstrap too", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  await world.etcd.put(world.key("a"), "1");
  await world.sql("select etcd_pause()");
  const first = world.program();
  await paused(first);
  await killed(first);
  const second = world.program();
  await paused(second);
  await renewals(world, 2);
  assert.equal((await world.state())!.state, "bootstrap");
  assert.deepEqual(await world.sql("select from etcd"), []);
  await world.sql("select etcd_resume()");
  await untilStreaming(world, second);
  assert.equal((await world.sql("select from etcd")).length, 1);
});

Deno.test("a pause that begins and ends at once leaves nothing undone", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  const { epoch } = (await world.state())!;
  for (let n = 0; n < 10; n++) {
    await world.sql("select etcd_pause()");
    await world.etcd.put(world.key(`down-${n}`), "1");
    await set(world, `up-${n}`);
    await world.sql("select etcd_resume()");
  }
  await quiet(world);
  assert.equal((await world.sql("select from etcd")).length, 20);
  assert.deepEqual(await world.sql("select from etcd_wal where status <> 'success'"), []);
  assert.equal((await world.state())!.epoch, epoch, "the leader has kept its place");
});

Deno.test("a stopped program does not wait for the end of a pause", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world);
  await world.sql("select etcd_pause()");
  await paused(program);
  program.kill("SIGTERM");
  assert.equal((await program.status).code, 0);
});

Deno.test(
  "pause, resume and resync are refused to roles that may not, and run for those that may",
  strict,
  async () => {
    await using world = await makeWorld();
    await installed(world, { prefix: world.prefix });
    const role = `operator_${world.database}`;
    await world.sql(`create role ${role} login password '${role}'`);
    try {
      const operator = world.session(role, role);
      for (const call of ["etcd_pause()", "etcd_resume()", "etcd_resync()"]) {
        await assert.rejects(operator.sql(`select ${call}`), { code: "42501" }, call);
      }
      await world.sql(
        `grant execute on function etcd_pause(text), etcd_resume(), etcd_resync(text) to ${role}`,
      );
      await operator.sql("select etcd_pause()");
      const [{ paused_by }] = await world.sql("select paused_by from etcd_sync_control");
      assert.equal(paused_by, role);
      assert.deepEqual(await operator.sql("select etcd_resume() as was"), [{ was: true }]);
      await assert.rejects(operator.sql("select etcd_resync('/elsewhere/')"), { code: "ZE001" });
      assert.equal((await operator.sql("select etcd_resync($1) as id", [world.key("a")]))[0].id, 1);
    } finally {
      await world.sql(`drop owned by ${role}; drop role ${role}`);
    }
  },
);

Deno.test(
  "resync compares again and repairs what was changed by hand, while all goes on",
  strict,
  async () => {
    await using world = await makeWorld();
    for (const name of ["a", "b", "c/1", "c/2"]) await world.etcd.put(world.key(name), "1");
    const program = await streaming(world);
    const drift = async () => {
      await world.sql("delete from etcd_kv where key = $1", [world.key("a")]);
      await world.sql("update etcd_kv set value = 'x' where key = $1", [world.key("c/1")]);
    };
    const wrong = async () => {
      const rows = await world.sql("select key, value from etcd order by key");
      return ["a", "b", "c/1", "c/2"].filter((name) =>
        rows.find(({ key }) => key === world.key(name))?.value !== "1"
      );
    };
    await drift();
    const part = await world.run("resync", ["--prefix", world.key("c/")]);
    assert.deepEqual([part.code, part.stderr], [0, ""]);
    assert.match(part.stdout, /^Done: resync 1 of prefix '.*c\/': 2 keys .* 1 different; 1 repaired/);
    assert.deepEqual(await wrong(), ["a"]);
    await world.sql("update etcd_kv set value = 'x' where key = $1", [world.key("b")]);
    assert.match(
      (await world.run("resync")).stdout,
      /^Done: resync 2 of .* 1 missing, 0 extra, 1 different; 2 repaired/,
    );
    assert.deepEqual(await wrong(), []);
    const again = await world.run("resync", ["--prefix", world.key("b"), "--format", "json"]);
    const { revision, ...found } = JSON.parse(again.stdout);
    assert.ok(revision > 0);
    const counts = { keys: 1, missing: 0, extra: 0, different: 0, repaired: 0 };
    assert.deepEqual(found, { id: 3, prefix: world.key("b"), done: true, ...counts });
    assert.equal((await world.state())!.timeline, 1);
    assert.equal((await events(world, "resynced")).length, 3);
    assert.ok(!program.logs.some((line) => line.msg === "state changed" && line.to === "compaction-resync"));
  },
);

Deno.test(
  "a resync that was asked for in a pause, or before a crash, is done afterwards",
  strict,
  async () => {
    await using world = await makeWorld();
    await world.etcd.put(world.key("a"), "1");
    const first = await streaming(world);
    await world.sql("select etcd_pause()");
    await paused(first);
    await world.sql("delete from etcd_kv");
    assert.match(
      (await world.run("resync")).stdout,
      /^Asked: resync 1 of prefix '.*'; stream 'default' is paused/,
    );
    await killed(first);
    await world.sql("select etcd_resume()");
    await streaming(world);
    await eventually(async () =>
      (await world.sql("select from etcd_sync_resync where finished_at is not null")).length
    );
    assert.equal((await world.sql("select from etcd")).length, 1);
  },
);

// Ids are drawn before the commit: a request can come after one with a higher id is done.
Deno.test("resyncs whose commits overtake one another are all done", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  const done = (id: number) =>
    eventually(async () =>
      (await world.sql("select from etcd_sync_resync where id = $1 and finished_at is not null", [id])).length
    );
  const late = world.session();
  await late.sql("begin");
  const [first] = await late.sql("select etcd_resync() as id");
  const [second] = await world.sql("select etcd_resync() as id");
  assert.ok(first.id < second.id);
  await done(second.id);
  await late.sql("commit");
  await done(first.id);
  await done((await world.sql("select etcd_resync() as id"))[0].id);
  assert.equal((await events(world, "resynced")).length, 3);
});

Deno.test("where nothing is installed, the line says so", strict, async () => {
  await using world = await makeWorld();
  const ended = await world.run("pause");
  assert.deepEqual([ended.code, ended.stdout], [1, ""]);
  assert.match(
    ended.stderr,
    /^etcd-pg-sync: Cannot find stream 'default': schema 'public' holds none; [^\n]*\n$/,
  );
});

Deno.test("where nobody works, resync says that the next one will", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  const { code, stdout } = await world.run("resync");
  assert.equal(code, 0);
  assert.match(stdout, /^Asked: resync 1 of prefix '.*'; no instance works on stream 'default'/);
  await eventually(async () => (await world.sql("select from etcd_sync_resync")).length === 1);
});
