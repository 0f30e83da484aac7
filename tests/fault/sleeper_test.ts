/**
 * Promise 6: one that has lost its place does no harm, whatever of it is still under way. The gate is a proxy between the
 * program and a server, closed after the decision and before the write.
 */
import assert from "node:assert/strict";
import { assertKept, judged, quiet, record } from "../support/history.ts";
import {
  crashed,
  events,
  hold,
  holdDrain,
  killed,
  renewals,
  streaming,
  strict,
  untilBlocked,
  untilStreaming,
} from "../support/run.ts";
import { eventually, makeWorld, type Program, type World } from "../support/world.ts";
import { Proxy } from "../robustness/proxy.ts";

/** The world as the program sees it through a proxy before one of the servers. */
function through(world: World, server: "etcd" | "postgres"): { args: string[]; proxy: Proxy } {
  const dsn = server === "etcd" ? world.etcdDsn : world.postgresDsn;
  const port = Number(/:(\d+)\//.exec(dsn)![1]);
  const proxy = Proxy.listen(port);
  return { args: [`--${server}-dsn`, dsn.replace(`:${port}/`, `:${proxy.port}/`)], proxy };
}

/** Told from all else that waits in a proxy by its size. */
const LARGE = "x".repeat(20_000);

/** The drain has taken over the marker: it has settled a write. */
async function takenOver(world: World): Promise<void> {
  await world.sql("select etcd_set($1, '1')", [world.key("first")]);
  await quiet(world);
}

async function pending(world: World): Promise<number> {
  return (await world.sql("select from etcd_wal where status = 'pending'")).length;
}

Deno.test(
  "a Txn that arrives after the next leader has bumped the marker changes nothing",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const { args, proxy } = through(world, "etcd");
    await using _ = proxy;
    const sleeper = await streaming(world, args);
    await takenOver(world);
    proxy.hold("up");
    await world.sql("select etcd_set($1, $2)", [world.key("a"), LARGE]);
    await eventually(() => proxy.waiting.up > LARGE.length); // claimed, and its Txn is on the way
    assert.equal((await world.state())!.batch_rows.length, 1);
    sleeper.kill("SIGSTOP");
    const next = world.program();
    await untilStreaming(world, next, 30_000);
    await quiet(world); // the next leader has bumped the marker, and sent the batch anew
    await world.etcd.delete(world.key("a")); // absent as when it was claimed: the marker alone can tell
    await quiet(world);
    proxy.release("up"); // now the sleeper's Txn arrives
    sleeper.kill("SIGCONT");
    await sleeper.until((line) => /lost-place|standing by/.test(`${line.kind} ${line.msg}`), 30_000);
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
    assert.equal(await world.etcd.get(world.key("a")), undefined, "the late Txn was applied");
  },
);

Deno.test(
  "a request whose answer is lost was applied: the next leader finds it by the marker",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const { args, proxy } = through(world, "etcd");
    await using _ = proxy;
    await streaming(world, args);
    await takenOver(world);
    proxy.hold("down"); // requests arrive, answers do not
    await world.sql("select etcd_set($1, 'ours')", [world.key("a")]);
    await eventually(async () => await world.etcd.get(world.key("a")));
    assert.equal(await pending(world), 1);
    proxy.cut();
    proxy.heal();
    const { wal, events: happened } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
    assert.equal(happened.length, 2);
  },
);

/**
 * The second of two transactions on one key waits in the proxy as a Txn; etcd has applied the first.
 * @param settling whether the settlement of the first comes through; if not, what is returned lets it go
 */
async function secondTxnHeld(world: World, proxy: Proxy, settling: boolean): Promise<() => Promise<void>> {
  const letGo = await holdDrain(world);
  for (const value of ["1", LARGE]) {
    await world.sql("select etcd_set($1, $2)", [world.key("hot"), value]);
  }
  const held = settling
    ? () => Promise.resolve()
    : await hold(world.session(), "lock table etcd_wal in share mode");
  proxy.hold("down");
  await letGo();
  await eventually(async () => await world.etcd.get(world.key("hot")));
  proxy.hold("up");
  proxy.release("down");
  await eventually(() => proxy.waiting.up > LARGE.length);
  await eventually(async () => await pending(world) === (settling ? 1 : 2));
  return held;
}

for (const settled of [true, false]) {
  Deno.test(
    `a Txn sent ahead that arrives after the next leader has bumped the marker changes nothing; the one before it is ${
      settled ? "" : "not "
    }settled`,
    strict,
    async () => {
      await using world = await makeWorld();
      const from = await world.etcd.revision();
      const { args, proxy } = through(world, "etcd");
      await using _ = proxy;
      const sleeper = await streaming(world, args);
      const held = await secondTxnHeld(world, proxy, settled);
      sleeper.kill("SIGSTOP");
      await held();
      const next = world.program();
      await untilStreaming(world, next, 30_000);
      await quiet(world);
      const last = await world.etcd.delete(world.key("hot"));
      await quiet(world);
      proxy.release("up"); // now the sleeper's Txn arrives
      sleeper.kill("SIGCONT");
      await sleeper.until((line) => /lost-place|standing by/.test(`${line.kind} ${line.msg}`), 30_000);
      const { wal, events: happened } = await judged(world, { from });
      assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
      assert.equal(wal[1].expected_revision, wal[0].result_revision);
      assert.equal(happened.at(-1)!.mod_revision, last, "the late Txn was applied");
    },
  );
}

Deno.test(
  "the settlement breaks while the Txn sent ahead has no answer: the program begins anew, and lives",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const { args, proxy } = through(world, "etcd");
    await using _ = proxy;
    const program = await streaming(world, args);
    const held = await secondTxnHeld(world, proxy, false);
    await untilBlocked(world, program, /etcd_drain_turn/);
    await world.sql("select pg_terminate_backend($1)", [(await world.state())!.holder_pids[2]]);
    await program.until((line) => line.msg === "begins anew");
    await held();
    proxy.cut(); // now the Txn has lost its answer, and nobody waits for it
    proxy.heal();
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), ["success", "success"]);
    await renewals(world, 1); // by the same process
  },
);

/** A sleeper whose commit of the key `b` waits in the proxy, and the sessions that it had. */
async function sleeping(
  world: World,
  { args, proxy }: ReturnType<typeof through>,
): Promise<{ sleeper: Program; pids: number[] }> {
  const sleeper = await streaming(world, args);
  await takenOver(world);
  proxy.hold("up");
  await world.etcd.put(world.key("b"), LARGE);
  await eventually(() => proxy.waiting.up > LARGE.length); // the mirror's commit is on the way
  sleeper.kill("SIGSTOP");
  return { sleeper, pids: (await world.state())!.holder_pids };
}

/**
 * The mirror's held commit arrives, and has run when this returns. Its sender sleeps on: awake, an unfenced one would go on
 * and apply what came since, and so hide what it has done.
 */
async function arrive(world: World, proxy: Proxy, [, mirror]: number[]): Promise<void> {
  const [{ now }] = await world.sql("select clock_timestamp() as now");
  proxy.release("up");
  await eventually(async () =>
    (await world.sql(
      "select from pg_stat_activity where pid = $1 and state = 'idle' and state_change > $2",
      [mirror, now],
    )).length
  );
}

Deno.test(
  "a commit of the mirror that arrives after another has taken the place is fenced",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const way = through(world, "postgres");
    await using _ = way.proxy;
    const { sleeper, pids } = await sleeping(world, way);
    // or the next leader would end its sessions: the fence alone has to hold
    await world.sql("update etcd_sync_state set holder_pids = '{}'");
    await untilStreaming(world, world.program(), 30_000);
    await world.etcd.delete(world.key("b"));
    await quiet(world);
    const { epoch } = (await world.state())!;
    await arrive(world, way.proxy, pids);
    assert.deepEqual(await world.sql("select key from etcd"), [{ key: world.key("first") }]);
    sleeper.kill("SIGCONT");
    await sleeper.until((line) => /lost-place|standing by/.test(`${line.kind} ${line.msg}`), 30_000);
    assert.equal((await world.state())!.epoch, epoch);
    await judged(world, { from });
  },
);

Deno.test(
  "a commit of the mirror that arrives when another has taken the place and written nothing yet is fenced",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const way = through(world, "postgres");
    await using _ = way.proxy;
    const { sleeper, pids } = await sleeping(world, way);
    // the checkpoint is where the sleeper left it: only the epoch and the holder tell
    const [{ revision }] = await world.sql(
      `update etcd_sync_state set epoch = epoch + 1, holder = gen_random_uuid(), holder_pids = '{}',
         lease_until = clock_timestamp() returning revision`,
    );
    await arrive(world, way.proxy, pids);
    assert.equal((await world.state())!.revision, revision);
    assert.deepEqual(await world.sql("select key from etcd"), [{ key: world.key("first") }]);
    sleeper.kill("SIGCONT");
    await sleeper.until(({ kind }) => kind === "lost-place", 30_000);
    await judged(world, { from }); // it has begun anew
  },
);

Deno.test(
  "a commit without an answer: the leader begins anew, nothing is lost and nothing is applied twice",
  strict,
  async () => {
    await using world = await makeWorld();
    const from = await world.etcd.revision();
    const { args, proxy } = through(world, "postgres");
    await using _ = proxy;
    const program = await streaming(world, args);
    await quiet(world);
    for (let n = 0; n < 5; n++) {
      await world.etcd.put(world.key(`e${n}`), "1");
      const lost = proxy.loseAnswer();
      await world.sql("select etcd_set($1, '1')", [world.key(`s${n}`)]);
      await lost;
      await quiet(world, 30_000);
    }
    assert.ok(program.logs.some(({ msg }) => msg === "begins anew"));
    const { wal } = await judged(world, { from });
    assert.deepEqual(wal.map(({ status }) => status), [
      "success",
      "success",
      "success",
      "success",
      "success",
    ]);
  },
);

Deno.test("of three instances one works; each in turn is killed, and the next goes on", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  const programs = [world.program(), world.program(), world.program()];
  for (let n = 0; n < 3; n++) {
    const leads = (program: Program) => program.logs.some(({ msg }) => msg === "this instance is the writer");
    const leader = await eventually(() => programs.find(leads));
    await eventually(async () => (await world.state())!.state === "streaming");
    await world.sql("select etcd_set($1, $2)", [world.key("a"), String(n)]);
    await quiet(world);
    assert.equal(programs.filter(leads).length, 1);
    programs.splice(programs.indexOf(leader), 1);
    await killed(leader);
  }
  const run = await record(world, { from });
  assertKept(run);
  assert.deepEqual(run.wal.map(({ status }) => status), ["success", "success", "success"]);
  assert.equal((await events(world, "leader")).length, 3);
});

Deno.test("a lease far in the future does not keep the place of a holder that is gone", strict, async () => {
  await using world = await makeWorld();
  const from = await world.etcd.put(world.key("a"), "1");
  const first = await streaming(world);
  await crashed(world, first);
  await world.sql("update etcd_sync_state set lease_until = clock_timestamp() + interval '1 year'"); // the clock has jumped back
  await streaming(world);
  await judged(world, { from });
});
