import assert from "node:assert/strict";
import fc from "fast-check";
import { claim, type Claimed, drainAll, settle } from "../support/drain.ts";
import { installed, setGate, strict } from "../support/schema.ts";
import { makeWorld, type Session, type World } from "../support/world.ts";

async function makeQueue(): Promise<World> {
  const world = await makeWorld();
  await installed(world);
  await setGate(world, "parked = false");
  return world;
}

/** The keys in the order in which they go. */
async function order(world: World): Promise<string> {
  return (await drainAll(world)).map(({ key }) => key).join(" ");
}

Deno.test(
  "a transaction goes by its last write: T1 first write, T2 commit, T1 last write",
  strict,
  async () => {
    await using world = await makeQueue();
    const [t1, t2] = [world.session(), world.session()];
    await t1.sql("begin; select etcd_set('/t1/a', '')");
    await t2.sql("begin; select etcd_set('/t2/b', ''); commit");
    await t1.sql("select etcd_set('/t1/b', ''); commit");
    assert.equal(await order(world), "/t2/b /t1/a /t1/b");
  },
);

Deno.test("a replaced write counts as the last too", strict, async () => {
  await using world = await makeQueue();
  const [t1, t2] = [world.session(), world.session()];
  await t1.sql("begin; select etcd_set('/t1', '1')");
  await t2.sql("select etcd_set('/t2', '')");
  await t1.sql("select etcd_set('/t1', '2'); commit");
  assert.equal(await order(world), "/t2 /t1");
});

Deno.test("a last write that a savepoint took back does not count", strict, async () => {
  await using world = await makeQueue();
  const [t1, t2] = [world.session(), world.session()];
  await t1.sql("begin; select etcd_set('/t1', '')");
  await t2.sql("select etcd_set('/t2', '')");
  await t1.sql("savepoint s; select etcd_set('/t1/gone', ''); rollback to s; commit");
  assert.equal(await order(world), "/t1 /t2");
});

Deno.test("a transaction that commits late, with an early number, is not lost", strict, async () => {
  await using world = await makeQueue();
  const [slow, fast] = [world.session(), world.session()];
  await slow.sql("begin; select etcd_set('/slow', '')");
  await fast.sql("select etcd_set('/fast', '')");
  assert.equal(await order(world), "/fast");
  await slow.sql("commit");
  assert.equal(await order(world), "/slow");
});

Deno.test(
  "writes of a deferred trigger of the user's, at commit, are of the transaction",
  strict,
  async () => {
    await using world = await makeQueue();
    await world.sql(
      `create table account (id integer);
     create function account_changed() returns trigger language plpgsql as $$ begin
       perform etcd_set('/account/' || new.id, ''); return null;
     end $$;
     create constraint trigger account_changed after insert on account deferrable initially deferred
     for each row execute function account_changed()`,
    );
    const other = world.session();
    await world.sql(
      "begin; insert into account values (1); select etcd_set('/a', ''), etcd_set('/b', ''); insert into account values (2)",
    );
    await other.sql("select etcd_set('/other', '')");
    await world.sql("commit");
    assert.equal(await order(world), "/other /a /b /account/1 /account/2");
    assert.deepEqual(await world.sql("select 1 from etcd_wal_tx"), []);
  },
);

Deno.test("SET CONSTRAINTS ALL IMMEDIATE does not change the order", strict, async () => {
  await using world = await makeQueue();
  const [t1, t2] = [world.session(), world.session()];
  await t1.sql(
    "begin; set constraints all immediate; select etcd_set('/t1/a', ''); select etcd_set('/t1/b', '')",
  );
  await t2.sql("select etcd_set('/t2', '')");
  await t1.sql("select etcd_set('/t1/c', ''); commit");
  assert.equal(await order(world), "/t2 /t1/a /t1/b /t1/c");
});

Deno.test("a header is written once, and moved only if the transaction writes more", strict, async () => {
  await using world = await makeQueue();
  await world.sql("select etcd_set('/one', '')");
  await world.sql("select etcd_set('/many/' || n, '') from generate_series(1, 50) n");
  const rows = await world.sql("select first_id, seq - first_id as moved_by from etcd_wal_tx order by seq");
  assert.deepEqual(rows.map(Object.values), [[1, 0], [2, 50]]);
});

/** What one of the writers does. A `begin` inside a transaction ends it first. */
interface Step {
  writer: number;
  what: "begin" | "write" | "undone" | "commit" | "rollback" | "claim";
  key: number;
}

const steps = fc.array(
  fc.record<Step>({
    writer: fc.nat(3),
    what: fc.constantFrom(
      "write",
      "write",
      "write",
      "begin",
      "commit",
      "commit",
      "undone",
      "rollback",
      "claim",
    ),
    key: fc.nat(5),
  }),
  { minLength: 5, maxLength: 60 },
);

/** One transaction as it was run: when it last wrote, and when it committed. */
interface Transaction {
  writer: number;
  txid: string;
  keys: Set<string>;
  lastWrite: number;
  committed: number;
}

/** Runs the steps one by one; returns what was committed, and what went in which order. */
async function run(
  world: World,
  sessions: Session[],
  script: Step[],
): Promise<{ committed: Transaction[]; went: Claimed[] }> {
  const open = new Map<number, Transaction>();
  const committed: Transaction[] = [];
  const went: Claimed[] = [];
  const end = async (writer: number, now: number, how: "commit" | "rollback") => {
    const transaction = open.get(writer);
    if (!transaction) return;
    open.delete(writer);
    await sessions[writer].sql(how);
    if (how === "commit" && transaction.keys.size > 0) committed.push({ ...transaction, committed: now });
  };
  const begin = async (writer: number, withId = false) => {
    await sessions[writer].sql(withId ? "begin; select pg_current_xact_id()" : "begin");
    open.set(writer, { writer, txid: "", keys: new Set(), lastWrite: -1, committed: -1 });
  };
  for (const [now, { writer, what, key }] of script.entries()) {
    if (what === "claim") {
      const rows = await claim(world, { rows: 4 });
      await settle(world, rows);
      went.push(...rows);
    } else if (what === "commit" || what === "rollback") {
      await end(writer, now, what);
    } else if (what === "begin") {
      await end(writer, now, "commit");
      await begin(writer, key % 2 === 0);
    } else {
      const alone = !open.has(writer);
      if (alone) await begin(writer);
      const transaction = open.get(writer)!;
      const write = `select etcd_set('/k/${key}', '${now}')`;
      if (what === "undone") {
        await sessions[writer].sql(`savepoint s; ${write}; rollback to s`);
      } else {
        await sessions[writer].sql(write);
        transaction.keys.add(`/k/${key}`);
        transaction.lastWrite = now;
      }
      // after the write: it may have been the first to need a transaction id
      transaction.txid = (await sessions[writer].sql("select pg_current_xact_id()::text as txid"))[0].txid;
      if (alone) await end(writer, now, "commit");
    }
  }
  for (const writer of [...open.keys()]) await end(writer, script.length, "commit");
  went.push(...await drainAll(world, { rows: 4 }));
  return { committed, went };
}

function check({ committed, went }: { committed: Transaction[]; went: Claimed[] }): void {
  const byTxid = new Map<string, number[]>();
  went.forEach(({ txid }, place) => byTxid.set(txid, [...byTxid.get(txid) ?? [], place]));
  assert.equal(byTxid.size, committed.length, "each committed transaction goes, and no other");
  for (const { txid, keys } of committed) {
    const places = byTxid.get(txid) ?? [];
    assert.deepEqual(new Set(places.map((place) => went[place].key)), keys, "with every key that it wrote");
    assert.equal(places.length, keys.size, "once");
    assert.equal(places.at(-1)! - places[0], places.length - 1, "as a whole");
  }
  for (const earlier of committed) {
    for (const later of committed) {
      const made = earlier.committed <= later.lastWrite && earlier !== later;
      const same = earlier.writer === later.writer && earlier.committed < later.committed;
      if (made || same) {
        assert.equal(
          byTxid.get(earlier.txid)![0] < byTxid.get(later.txid)![0],
          true,
          "after those that it could see",
        );
      }
    }
  }
}

Deno.test(
  "random interleavings of writers go whole, once, and after what they could see",
  strict,
  async () => {
    await using world = await makeQueue();
    const sessions = Array.from({ length: 4 }, () => world.session());
    const property = fc.asyncProperty(steps, async (script) => check(await run(world, sessions, script)));
    await fc.assert(property, { numRuns: 60 });
  },
);

Deno.test("writers that run at once lose nothing, and keep each connection's order", strict, async () => {
  await using world = await makeQueue();
  const sessions = Array.from({ length: 8 }, () => world.session());
  const work = sessions.map(async (session, writer) => {
    for (let n = 0; n < 40; n++) {
      if (n % 4) await session.sql("select etcd_set($1, $2)", [`/w/${writer}`, String(n)]);
      else {
        await session.sql("begin");
        await session.sql("select etcd_set($1, $2)", [`/w/${writer}`, String(n)]);
        await session.sql("select etcd_set($1, $2)", [`/shared/${n % 5}`, `${writer}.${n}`]);
        await session.sql("commit");
      }
    }
  });
  const went: Claimed[] = [];
  const writing = Promise.all(work).then(() => true);
  while (!await Promise.race([writing, Promise.resolve(false)])) {
    went.push(...await drainAll(world, { rows: 20 }));
  }
  went.push(...await drainAll(world, { rows: 20 }));
  assert.equal(went.length, 8 * (40 + 10));
  const values = new Map(
    (await world.sql("select id, value from etcd_wal")).map(({ id, value }) => [id, Number(value)]),
  );
  for (let writer = 0; writer < 8; writer++) {
    const own = went.filter(({ key }) => key === `/w/${writer}`).map(({ id }) => values.get(id));
    assert.deepEqual(own, Array.from({ length: 40 }, (_, n) => n));
  }
});
