/**
 * `kill -9` between any two messages. The program runs through a proxy that stops after the n-th chunk to, or from, one
 * of the servers; there it is killed, and another one goes on without the proxy. Each n is another crash point:
 *
 *   etcd up        a request was not sent                 PostgreSQL up      a statement was not sent
 *   etcd down      it was carried out, no answer came     PostgreSQL down    it has committed, no answer came
 *
 * The way leads through all of a life: schema, place, first page, caught-up, marker, batches, settlements, events.
 * ETCD_PG_SYNC_TEST_SWEEP=1 takes every n; without, a run takes every eleventh from a random one on, and prints which.
 */
import assert from "node:assert/strict";
import { Proxy } from "../robustness/proxy.ts";
import { assertKept, quiet, record } from "../support/history.ts";
import { crashed, streaming, strict } from "../support/run.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

const all = Deno.env.get("ETCD_PG_SYNC_TEST_SWEEP") === "1";
const stride = all ? 1 : 11;
const first = all
  ? 0
  : Number(Deno.env.get("ETCD_PG_SYNC_TEST_SWEEP_FROM") ?? Math.floor(Math.random() * stride));

/** What waits for the program, and what comes while it runs. */
async function prepare(world: World): Promise<void> {
  for (let n = 0; n < 5; n++) await world.etcd.put(world.key(`e${n}`), `${n}`);
}

async function traffic(world: World): Promise<void> {
  await eventually(async () => (await world.state().catch(() => undefined))?.holder);
  await world.sql("begin");
  for (const name of ["a", "b", "e0"]) await world.sql("select etcd_set($1, 'ours')", [world.key(name)]);
  await world.sql("commit");
  await world.etcd.txn([{ put: world.key("e1"), value: "theirs" }, { delete: world.key("e2") }]);
  await world.sql("select etcd_set($1, 'ours'), etcd_delete($2)", [world.key("c"), world.key("e3")]);
}

async function settled(world: World): Promise<boolean> {
  await quiet(world, 1_000);
  return true;
}

/** true: the program was killed at that point; false: all was done before. */
async function crashAt(
  server: "etcd" | "postgres",
  direction: "up" | "down",
  chunk: number,
): Promise<boolean> {
  await using world = await makeWorld();
  const from = await world.etcd.revision();
  await prepare(world);
  const dsn = server === "etcd" ? world.etcdDsn : world.postgresDsn;
  const port = Number(/:(\d+)\//.exec(dsn)![1]);
  await using proxy = Proxy.listen(port);
  const stopped = proxy.holdAfter(direction, chunk);
  const program = world.program([`--${server}-dsn`, dsn.replace(`:${port}/`, `:${proxy.port}/`)]);
  const done = traffic(world).then(() => eventually(() => settled(world), { timeoutMs: 40_000 }));
  done.catch(() => {}); // awaited below
  const killed = await Promise.race([stopped.then(() => true), done.then(() => false)]);
  await crashed(world, program);
  await streaming(world);
  await done; // with the second program's help, where the first did not come so far
  const run = await record(world, { from });
  assertKept(run);
  assert.equal(run.wal.length, 5);
  return killed;
}

for (const server of ["etcd", "postgres"] as const) {
  for (const direction of ["up", "down"] as const) {
    const name =
      `killed between any two messages ${direction} to ${server}: nothing is lost, nothing applied twice`;
    Deno.test(name, strict, async () => {
      let chunk = first;
      try {
        while (await crashAt(server, direction, chunk)) chunk += stride;
      } catch (error) {
        const again = `ETCD_PG_SYNC_TEST_SWEEP_FROM=${first} deno task test tests/fault/crash_sweep_test.ts`;
        const message = `killed after chunk ${chunk}: ${(error as Error).message}; again: ${again}`;
        throw new Error(message, { cause: error });
      }
      console.log(`crash points ${first} to ${chunk - stride}, every ${stride}th`);
      assert.ok(chunk > first);
    });
  }
}
