/** The bench's own client of etcd: what it says it has written is there. */
import assert from "node:assert/strict";
import {
  compactRequest,
  Connection,
  countOf,
  prefixRequest,
  putRequest,
  revisionOf,
  txnRequest,
} from "../../bench/etcd.ts";
import { load } from "../../bench/load.ts";
import { strict } from "../support/schema.ts";
import { parseEtcdDsn } from "../support/etcd.ts";
import { makeWorld, type World } from "../support/world.ts";

function endpointOf(world: World): string {
  return parseEtcdDsn(world.etcdDsn).hosts[0];
}

Deno.test("the bench's client writes values that are larger than a window of HTTP/2", strict, async () => {
  await using world = await makeWorld();
  using etcd = await Connection.open(endpointOf(world));
  for (const bytes of [0, 1, 16_384, 65_530, 1_000_000]) {
    const value = new Uint8Array(bytes).map((_, i) => i * 7);
    const revision = revisionOf(await etcd.call("KV/Put", putRequest(`${world.prefix}k`, value)));
    const kv = await world.etcd.get(`${world.prefix}k`);
    assert.equal(kv!.mod_revision, revision);
    assert.deepEqual(new Uint8Array(kv!.value), value);
  }
});

Deno.test("the bench's client counts what its transactions have put", strict, async () => {
  await using world = await makeWorld();
  using etcd = await Connection.open(endpointOf(world));
  const puts = Array.from(
    { length: 127 },
    (_, i) => putRequest(`${world.prefix}t/${i}`, new Uint8Array(128)),
  );
  await etcd.call("KV/Txn", txnRequest(puts));
  assert.equal(countOf(await etcd.call("KV/Range", prefixRequest(`${world.prefix}t/`, true))), 127);
});

Deno.test("the bench's client says when etcd refuses, and goes on", strict, async () => {
  await using world = await makeWorld();
  using etcd = await Connection.open(endpointOf(world));
  await assert.rejects(etcd.call("KV/Compact", compactRequest(2 ** 40)), /etcd has refused a KV\/Compact/);
  assert.ok(revisionOf(await etcd.call("KV/Put", putRequest(`${world.prefix}k`, new Uint8Array()))) > 0);
});

Deno.test("a load has as many keys and puts as were asked for", strict, async () => {
  await using world = await makeWorld();
  const prefix = `${world.prefix}load/`;
  const { puts, began, ended } = await load({
    endpoint: endpointOf(world),
    prefix,
    keys: 300,
    puts: 1_000,
    perTxn: 127,
    clients: 3,
    valueBytes: 10,
  });
  assert.equal(puts, 1_000);
  assert.ok(ended > began);
  using etcd = await Connection.open(endpointOf(world));
  assert.equal(countOf(await etcd.call("KV/Range", prefixRequest(prefix, true))), 300);
});
