/** Random traffic on both sides, with a kill -9 in the middle; all promises are judged. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { assertKept, latin1, quiet, Reader, record } from "../support/history.ts";
import { crashed, streaming, strict } from "../support/run.ts";
import { type Random, seeded } from "../support/random.ts";
import { nastyKeys } from "../support/samples.ts";
import type { ClientTransaction } from "../support/validators.ts";
import { makeWorld, type Op, type Session, type World } from "../support/world.ts";

const TRAFFIC_MS = 10_000;

/** What the writers share: keys, and when to end. */
interface Traffic {
  world: World;
  keys: Buffer[];
  going: () => boolean;
}

/** A session of an application; it knows of each of its transactions what became of it. */
async function sqlClient(
  { world, keys, going }: Traffic,
  name: string,
  random: Random,
): Promise<ClientTransaction[]> {
  const session = world.session();
  const done: ClientTransaction[] = [];
  for (let n = 0; going(); n++) {
    const began = performance.now();
    await session.sql("begin");
    const wanted = new Map<string, Buffer | null>();
    let outcome: ClientTransaction["outcome"] = random.chance(0.1) ? "rolled-back" : "committed";
    for (let i = random.integer(1, 4); i > 0; i--) {
      const key = random.pick(keys);
      const value = random.chance(0.2)
        ? null
        : Buffer.from(`${name} ${n} ${i}${random.chance(0.2) ? "\xff\0" : ""}`, "latin1");
      const became = await write(session, key, value, random);
      if (became === "queued") wanted.set(key.toString("latin1"), value);
      if (became === "refused") {
        outcome = "rolled-back";
        break;
      }
    }
    const rows = outcome === "committed"
      ? await session.sql("select id, key from etcd_wal where txid = pg_current_xact_id_if_assigned()")
      : [];
    await session.sql(outcome === "committed" ? "commit" : "rollback");
    const writes = rows.map(({ id, key }) => ({ id, key: latin1(key), value: wanted.get(latin1(key))! }));
    done.push({ outcome, began, ended: performance.now(), writes });
    if (random.chance(0.3)) await session.sql("select pg_sleep($1)", [random.integer(1, 30) / 1_000]);
  }
  return done;
}

/** What became of it; `nothing`: the view has no such row. */
async function write(
  session: Session,
  key: Buffer,
  value: Buffer | null,
  random: Random,
): Promise<"queued" | "nothing" | "refused"> {
  const way = random.pick(["function", "function", "view", "compare"]);
  const [statement, params] = way === "view"
    ? value
      ? ["update etcd set value_bytes = $2 where key = etcd_key_text($1) returning key", [key, value]]
      : ["delete from etcd where key = etcd_key_text($1) returning key", [key]]
    : value === null
    ? ["select etcd_delete(etcd_key_text($1))", [key]]
    : way === "compare"
    ? [
      "select etcd_set(etcd_key_text($1), $2::bytea, coalesce((select revision from etcd where key = etcd_key_text($1)), 0))",
      [key, value],
    ]
    : ["select etcd_set(etcd_key_text($1), $2::bytea)", [key, value]];
  try {
    return (await session.sql(statement as string, params as Buffer[])).length ? "queued" : "nothing";
  } catch (error) {
    // it compares with another revision than an earlier write of the same transaction stands on
    if ((error as { code?: string }).code === "ZE007") return "refused";
    throw error;
  }
}

/** Somebody on the etcd side. */
async function foreigner({ world, keys, going }: Traffic, name: string, random: Random): Promise<void> {
  for (let n = 0; going(); n++) {
    const some = random.sample(keys, random.integer(1, 5));
    await world.etcd.txn(
      some.map((key): Op => random.chance(0.25) ? { delete: key } : { put: key, value: `${name} ${n}` }),
    );
    await new Promise((resolve) => setTimeout(resolve, random.integer(0, 40)));
  }
}

Deno.test("random traffic on both sides and a kill -9: every promise is kept", strict, async () => {
  const random = seeded("tests/promise/model_test.ts");
  await using world = await makeWorld();
  const names = [...Object.values(nastyKeys), ...Array.from({ length: 30 }, (_, i) => Buffer.from(`k${i}`))];
  const keys = names.map((name) => Buffer.concat([Buffer.from(world.prefix), name]));
  const from = await world.etcd.put(keys[0], "first");
  const first = await streaming(world);
  await using reader = new Reader(world);

  let going = true;
  const traffic: Traffic = { world, keys, going: () => going };
  const clients = ["c1", "c2", "c3"].map((name) => sqlClient(traffic, name, random.fork()));
  const others = ["e1", "e2"].map((name) => foreigner(traffic, name, random.fork()));
  // the length of the traffic is what is asked for; nothing is waited for here
  await new Promise((resolve) => setTimeout(resolve, TRAFFIC_MS / 2));
  await crashed(world, first);
  world.program();
  await new Promise((resolve) => setTimeout(resolve, TRAFFIC_MS / 2));
  going = false;
  const [transactions] = await Promise.all([Promise.all(clients), Promise.all(others)]);
  await quiet(world, 60_000);
  const run = await record(world, { from, snapshots: await reader.stop(), clients: transactions.flat() });
  assertKept(run);
  const count = Map.groupBy(run.wal, ({ status }) => status);
  const [success, conflict] = [count.get("success")?.length ?? 0, count.get("conflict")?.length ?? 0];
  assert.ok(
    success > 20 && conflict > 5,
    `${success} writes and ${conflict} conflicts are too few to tell anything`,
  );
});
