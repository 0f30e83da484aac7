/** Promise 7: fresh or not ready. What `fresh_at` claims is true, and it stands still where nothing is proved. */
import assert from "node:assert/strict";
import { etcdVersion } from "../../lib/core/version.ts";
import { EtcdClient } from "../../lib/etcd/client.ts";
import { Follower } from "../../lib/etcd/follow.ts";
import { readKey } from "../../lib/etcd/kv.ts";
import { readMember } from "../../lib/etcd/status.ts";
import { quiet } from "../support/history.ts";
import { hold, holdDrain, renewals, streaming, strict } from "../support/run.ts";
import { ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

async function freshness(world: World) {
  const [row] = await world.sql("select *, clock_timestamp() as now from etcd_freshness()");
  return row;
}

Deno.test("idle: fresh_at moves on, and never ahead of the server's clock", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  for (let n = 0; n < 2; n++) {
    const { fresh_at } = await freshness(world);
    const later = await eventually(async () => {
      const row = await freshness(world);
      return row.fresh_at > (fresh_at ?? 0) ? row : undefined;
    });
    assert.ok(later.fresh_at <= later.now);
    assert.equal(later.oldest_write_age, null);
  }
});

Deno.test("a mirror that is held up is not fresh, while watch and program are well", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  await eventually(async () => (await freshness(world)).fresh_at);
  const release = await hold(world.session(), "lock table etcd_kv in exclusive mode");
  await world.etcd.put(world.key("a"), "1");
  const { now: acknowledged } = await freshness(world);
  await renewals(world, 3);
  assert.ok((await freshness(world)).fresh_at <= acknowledged, "fresh_at claims what is not in the mirror");
  await release();
  const row = await eventually(async () => {
    const [row] = await world.sql(
      "select fresh_at, exists (select from etcd) as there from etcd_sync_state",
    );
    return row.fresh_at > acknowledged ? row : undefined;
  });
  assert.equal(row.there, true);
});

Deno.test(
  "etcd hangs: fresh_at stands still, the watch is given up; etcd wakes: fresh again",
  strict,
  async () => {
    await using world = await makeWorld();
    await using server = await ownEtcd();
    await using there = world.on(server);
    const program = await streaming(there, ["--fresh-timeout", "2s"]);
    await eventually(async () => (await freshness(world)).fresh_at);
    server.freeze();
    const { now: frozen } = await freshness(world);
    await program.until((line) => /no event and no progress for 2 s/.test(line.error ?? ""));
    assert.ok((await freshness(world)).fresh_at <= frozen);
    server.wake();
    await eventually(async () => (await freshness(world)).fresh_at > frozen, { timeoutMs: 20_000 });
  },
);

Deno.test(
  "progress below what etcd is known to have: the member has fallen behind, the watch is given up",
  strict,
  async () => {
    await using world = await makeWorld();
    const { hostname, port } = new URL(world.etcdDsn.replace("etcd:", "http:"));
    await using opened = new AsyncDisposableStack();
    const client = opened.adopt(new EtcdClient({ endpoints: [`${hostname}:${port}`] }), (c) => c.close());
    const { carefulProgress } = etcdVersion((await readMember(client)).version);
    const { revision, clusterId } = await readKey(client, new TextEncoder().encode("none"));
    const open = () =>
      Follower.open(client, { from: Uint8Array.of(0), to: Uint8Array.of(0) }, {
        position: revision,
        clusterId,
        carefulProgress,
        fragment: false,
        freshTimeoutMs: 2_000,
      });
    await using keepsUp = await open();
    await using behind = await open();
    keepsUp.expect(revision);
    behind.expect(revision + 1_000_000);
    await eventually(() => {
      while (behind.take());
      return behind.end;
    });
    assert.match(String(behind.end?.kind === "broken" && behind.end.error), /no progress for 2 s/);
    while (keepsUp.take());
    assert.equal(keepsUp.end, undefined);
  },
);

Deno.test(
  "the age of the oldest write counts from its transaction, until it is settled",
  strict,
  async () => {
    await using world = await makeWorld();
    await streaming(world);
    await quiet(world);
    const release = await holdDrain(world);
    await world.sql("select etcd_set($1, '1')", [world.key("a")]);
    await world.sql("select etcd_set($1, '1')", [world.key("b")]);
    const [{ exact }] = await world.sql(
      `select clock_timestamp() - (select min(ts) from etcd_wal) >= f.oldest_write_age
       and f.oldest_write_age > clock_timestamp() - (select max(ts) from etcd_wal) - interval '1 hour' as exact
     from etcd_freshness() f`,
    );
    assert.equal(exact, true);
    await release();
    await eventually(async () => (await freshness(world)).oldest_write_age === null);
  },
);

Deno.test(
  "a session with PostgreSQL that hangs: the leader gives the place up within its lease",
  strict,
  async () => {
    await using world = await makeWorld();
    const program = await streaming(world);
    const [leader] = (await world.state())!.holder_pids;
    Deno.kill(leader, "SIGSTOP");
    try {
      await program.until(
        (line) => /the lease was not renewed: no answer for 5 s/.test(line.error ?? ""),
        15_000,
      );
      await world.etcd.put(world.key("a"), "1");
      await eventually(async () => (await world.sql("select from etcd")).length === 1, { timeoutMs: 20_000 });
    } finally {
      Deno.kill(leader, "SIGCONT");
    }
  },
);
