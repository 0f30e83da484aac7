/** An etcd of three: whichever member fails, and however, the program goes on with the next. */
import assert from "node:assert/strict";
import { type Cluster, type Member, startCluster } from "../support/cluster.ts";
import { assertKept, record } from "../support/history.ts";
import { streaming, strict } from "../support/run.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

/** A world on the cluster; the test itself talks to `through`, the program to `first` before the others. */
async function onCluster(cluster: Cluster, first: Member, through: Member) {
  await using stack = new AsyncDisposableStack();
  const outer = stack.use(await makeWorld());
  const etcd = cluster.door(through);
  const rest = cluster.members.filter((member) => member.name !== first.name);
  const hosts = [first, ...rest].map(({ port }) => `127.0.0.1:${port}`).join(",");
  const world = stack.use(outer.on({ dsn: `etcd://${hosts}/`, etcd }));
  const all = stack.move();
  return { world, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

let writes = 0;

/** One write each way, seen on the other side. */
async function bothWays(world: World, timeoutMs = 40_000): Promise<void> {
  const [down, up] = [world.key(`down${++writes}`), world.key(`up${writes}`)];
  await eventually(() => world.etcd.put(down, "1"), { timeoutMs });
  await world.sql("select etcd_set($1, '1')", [up]);
  await eventually(async () => {
    const there = await world.sql("select 1 from etcd where key in ($1, $2)", [down, up]);
    return there.length === 2;
  }, { timeoutMs });
}

async function assertRight(world: World, from: number): Promise<void> {
  const run = await record(world, { from });
  assertKept(run);
  assert.ok(run.wal.every(({ status }) => status === "success"), JSON.stringify(run.wal));
}

for (
  const [what, fail] of [
    ["is killed", (member: Member) => member.stop()],
    ["is frozen", (member: Member) => member.freeze()],
  ] as const
) {
  for (const role of ["leader", "follower"] as const) {
    Deno.test(`the member that serves the watch, a ${role}, ${what}`, strict, async () => {
      await using cluster = await startCluster();
      const first = await cluster[role]();
      const through = cluster.members.find((member) => member !== first)!;
      await using on = await onCluster(cluster, first, through);
      const { world } = on;
      const from = await world.etcd.revision();
      await streaming(world);
      await bothWays(world);
      await fail(first);
      await bothWays(world);
      await assertRight(world, from);
    });
  }
}

Deno.test("the leader changes", strict, async () => {
  await using cluster = await startCluster();
  const [first, ...others] = [await cluster.leader(), ...cluster.members];
  await using on = await onCluster(cluster, first, first);
  const from = await on.world.etcd.revision();
  await streaming(on.world);
  for (const next of others.filter((member) => member !== first)) {
    await cluster.promote(next);
    await bothWays(on.world);
  }
  await assertRight(on.world, from);
});

Deno.test("a learner stands first in the list: it is passed over", strict, async () => {
  await using cluster = await startCluster();
  const learner = await cluster.addLearner();
  await using on = await onCluster(cluster, learner, cluster.members[0]);
  const from = await on.world.etcd.revision();
  await streaming(on.world);
  await bothWays(on.world);
  await assertRight(on.world, from);
});

Deno.test(
  "a member that is cut off from its cluster is left, and passed over at a start",
  strict,
  async () => {
    await using cluster = await startCluster();
    const first = await cluster.follower();
    const through = cluster.members.find((member) => member !== first)!;
    await using on = await onCluster(cluster, first, through);
    const from = await on.world.etcd.revision();
    const program = await streaming(on.world);
    await bothWays(on.world);
    await cluster.partition(first);
    await bothWays(on.world);
    program.kill("SIGKILL");
    await program.status;
    await streaming(on.world);
    await bothWays(on.world);
    await assertRight(on.world, from);
  },
);

Deno.test(
  "two of three are frozen: writes wait, nothing is fresh, and all goes on when they wake",
  strict,
  async () => {
    await using cluster = await startCluster();
    const first = await cluster.leader();
    await using on = await onCluster(cluster, first, first);
    const { world } = on;
    const from = await world.etcd.revision();
    await streaming(world);
    await bothWays(world);
    const others = cluster.members.filter((member) => member !== first);
    others.forEach((member) => member.freeze());
    const [{ id }] = await world.sql("select etcd_set($1, 'waits') as id", [world.key("waits")]);
    others.forEach((member) => member.wake());
    await eventually(async () => {
      const [row] = await world.sql("select status from etcd_wal where id = $1", [id]);
      return row.status === "success";
    }, { timeoutMs: 40_000 });
    await bothWays(world);
    await assertRight(world, from);
  },
);
