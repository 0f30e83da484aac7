/** Calls to etcd, beside grpc-js: the same errors; and what is lost is never sent again. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import dns from "node:dns/promises";
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import type { TxnPlan } from "../../lib/core/txn.ts";
import { EtcdClient } from "../../lib/etcd/client.ts";
import { encodeRange, encodeTxn } from "../../lib/etcd/encode.ts";
import { Endpoint } from "../../lib/etcd/endpoint.ts";
import { EtcdError, refusal } from "../../lib/etcd/error.ts";
import {
  isCompacted,
  isFuture,
  isLostAnswer,
  isPassing,
  isTooLarge,
  readRange,
  sendTxn,
} from "../../lib/etcd/kv.ts";
import { probeRead } from "../../lib/etcd/probe.ts";
import { methodPath } from "../../lib/etcd/protocol.ts";
import { callRpc, type Metadata } from "../../lib/etcd/rpc.ts";
import { openSocket } from "../../lib/etcd/socket.ts";
import { decodeTxnResponse } from "../../lib/etcd/wire.ts";
import { Proxy } from "../robustness/proxy.ts";
import { startCluster } from "../support/cluster.ts";
import { parseEtcdDsn } from "../support/etcd.ts";
import { withUsers } from "../support/etcd_users.ts";
import { failByGrpc } from "../support/grpc.ts";
import { loose } from "../support/guarded_etcd.ts";
import { strict } from "../support/run.ts";
import { ownEtcd, tempDir } from "../support/servers.ts";
import { eventually } from "../support/world.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const address = ({ dsn }: { dsn: string }) => parseEtcdDsn(dsn).hosts[0];
const put = (key: string, value: Uint8Array): TxnPlan["writes"][number] => ({
  key: bytes(key),
  value,
  keepLease: false,
});

function range(key: string, revision = 0): Buffer {
  return encodeRange({ key: bytes(key), end: new Uint8Array(), limit: 0, revision });
}

function clientOf(endpoints: string[], login = {}): EtcdClient & Disposable {
  const client = new EtcdClient({ endpoints, ...login });
  return Object.assign(client, { [Symbol.dispose]: () => client.close() });
}

function endpointOf(at: string): Endpoint & Disposable {
  const endpoint = new Endpoint(at, undefined);
  return Object.assign(endpoint, { [Symbol.dispose]: () => endpoint.reset() });
}

async function failure(doing: Promise<unknown>) {
  try {
    await doing;
  } catch (error) {
    assert.ok(error instanceof EtcdError, String(error));
    const { code, message, unsent } = error;
    return { code: grpc.status[code], message, unsent };
  }
  throw new Error("it did not fail");
}

interface Asked {
  metadata?: Record<string, string>;
  timeoutMs?: number;
}

/** The same failure both ways. `loose` tests: node:http2 of Deno 2.6 leaves the request open that was answered early. */
async function bothFail(
  endpoint: Endpoint,
  name: "Range" | "Txn",
  message: Buffer,
  { metadata: given = {}, timeoutMs = 20_000 }: Asked = {},
) {
  const headers = { hasleader: "true", ...given };
  const path = methodPath("KV", name);
  const error = await failByGrpc(endpoint.address, path, message, headers, timeoutMs);
  const byGrpc = await failure(Promise.reject(refusal(error.code, error.details)));
  const connection = await endpoint.connected();
  const options = {
    metadata: Object.entries(headers) as Metadata,
    decode: (answer: Uint8Array) => answer,
    timeoutMs,
  };
  assert.deepEqual(await failure(callRpc(connection, path, message, options)), byGrpc);
  assert.equal(connection.usable, true, "the connection goes on");
  return byGrpc;
}

Deno.test("what etcd refuses is told in the same words and codes as by grpc-js", loose, async () => {
  await using etcd = await ownEtcd();
  using endpoint = endpointOf(address(etcd));
  for (const value of ["1", "2", "3"]) await etcd.etcd.put("a", value);
  await etcd.etcd.compact(3);

  const compacted = await bothFail(endpoint, "Range", range("a", 2));
  assert.match(compacted.message, /has been compacted/);
  const future = await bothFail(endpoint, "Range", range("a", 99));
  assert.match(future.message, /future revision/);
  const twice = await bothFail(
    endpoint,
    "Txn",
    encodeTxn({ compares: [], writes: [put("a", bytes("1")), put("a", bytes("2"))] }),
  );
  assert.match(twice.message, /duplicate key/);
  const large = (size: number) => encodeTxn({ compares: [], writes: [put("a", new Uint8Array(size))] });
  assert.match((await bothFail(endpoint, "Txn", large(1_700_000))).message, /request is too large/);
  // refused at its first bytes, while the rest still waits for the window
  assert.match((await bothFail(endpoint, "Txn", large(20_000_000))).message, /larger than max/);

  await etcd.etcd.raiseNoSpace();
  const full = encodeTxn({ compares: [], writes: [put("b", bytes("1"))] });
  assert.match((await bothFail(endpoint, "Txn", full)).message, /space exceeded/);

  using client = clientOf([address(etcd)]);
  const read = (revision: number) => readRange(client, bytes("a"), bytes("b"), 1, revision);
  await assert.rejects(read(2), (error) => isCompacted(error) && !isFuture(error));
  await assert.rejects(read(99), (error) => isFuture(error) && !isCompacted(error));
  const write = sendTxn(client, { compares: [], writes: [put("b", bytes("1"))] });
  await assert.rejects(write, (error) => isPassing(error) && !isLostAnswer(error));
});

Deno.test("an answer that is too large has grpc's code, and the connection goes on", strict, async () => {
  await using etcd = await ownEtcd();
  using client = clientOf([address(etcd)]);
  const value = new Uint8Array(1_000_000);
  for (let i = 10; i < 61; i++) await sendTxn(client, { compares: [], writes: [put(`a${i}`, value)] });
  const read = (to: string) => readRange(client, bytes("a"), bytes(to), 0);
  await assert.rejects(read("b"), (error) => isTooLarge(error) && !(error as EtcdError).unsent);
  assert.equal([...(await read("a58")).keys].length, 48);
});

Deno.test("users: missing rights, a token that is none, and a JWT", loose, async () => {
  await using dir = await tempDir();
  const [pub, priv] = ["pub.pem", "priv.pem"].map((name) => join(dir.path, name));
  for (const args of [["genrsa", "-out", priv, "2048"], ["rsa", "-in", priv, "-pubout", "-out", pub]]) {
    assert.ok((await new Deno.Command("openssl", { args, stderr: "null" }).output()).success);
  }
  await using etcd = await ownEtcd([
    `--auth-token=jwt,pub-key=${pub},priv-key=${priv},sign-method=RS256,ttl=10m`,
  ]);
  await withUsers(etcd);
  using endpoint = endpointOf(address(etcd));
  const nonsense = await bothFail(endpoint, "Range", range("a"), { metadata: { token: "nonsense" } });
  assert.match(nonsense.message, /invalid auth token/);
  const nobody = await bothFail(endpoint, "Txn", encodeTxn({ compares: [], writes: [put("a", bytes("1"))] }));
  assert.equal(nobody.code, "UNAUTHENTICATED");

  using root = clientOf([address(etcd)], { user: "root", password: "rootpw" });
  const written = await sendTxn(root, { compares: [], writes: [put("a", bytes("1"))] });
  assert.equal((await readRange(root, bytes("a"), bytes("b"), 1)).header.revision, written.revision);
  using weak = clientOf([address(etcd)], { user: "weak", password: "weakpw" });
  const denied = {
    code: "PERMISSION_DENIED",
    message: "etcdserver: permission denied",
    unsent: false,
  };
  const write = sendTxn(weak, { compares: [], writes: [put("a", bytes("2"))] });
  assert.deepEqual(await failure(write), denied);

  await probeRead(root, bytes("a"), bytes("b"));
  assert.deepEqual(await failure(probeRead(weak, bytes("a"), bytes("b"))), denied);
});

Deno.test(
  "a member without a leader, and a learner, refuse in the same words both ways",
  strict,
  async () => {
    await using cluster = await startCluster();
    const member = await cluster.follower();
    using cut = endpointOf(`127.0.0.1:${member.port}`);
    const learner = await cluster.addLearner();
    using learning = endpointOf(`127.0.0.1:${learner.port}`);
    const refused = await bothFail(learning, "Range", range("a"));
    assert.deepEqual([/learner/.test(refused.message), refused.unsent], [true, true]);
    await cluster.partition(member);
    const write = encodeTxn({ compares: [], writes: [put("a", bytes("1"))] });
    const lost = await eventually(async () => {
      const found = await bothFail(cut, "Txn", write, { timeoutMs: 2_000 });
      return /no leader/.test(found.message) ? found : null;
    });
    assert.deepEqual([lost.code, lost.unsent], ["UNAVAILABLE", false]);
  },
);

Deno.test("etcd that takes requests of 10 MB: a transaction of 5 MB, and a page of it", strict, async () => {
  await using etcd = await ownEtcd(["--max-request-bytes=10485760"]);
  using client = clientOf([address(etcd)]);
  const values = Array.from({ length: 100 }, () => crypto.getRandomValues(new Uint8Array(50_000)));
  const name = (i: number) => `k${String(i).padStart(3, "0")}`;
  const answer = await sendTxn(client, {
    compares: [{ key: bytes("k000"), revision: 0 }],
    writes: values.map((value, i) => put(name(i), value)),
  });
  assert.equal(answer.applied, true);
  const again = await sendTxn(client, {
    compares: [{ key: bytes("k000"), revision: 0 }, { key: bytes("k999"), revision: 0 }],
    writes: [put("k000", bytes("no"))],
  });
  assert.deepEqual([again.applied, again.found], [false, [answer.revision, 0]]);
  const pages = await Promise.all([1, 2, 3].map(() => readRange(client, bytes("k"), bytes("l"), 0)));
  for (const { keys } of pages) {
    assert.deepEqual(
      [...keys].map(({ value }) => Buffer.from(value)),
      values.map((value) => Buffer.from(value)),
    );
  }
});

Deno.test(
  "a transaction whose answer is lost is applied once, and nobody sends it again",
  strict,
  async () => {
    await using etcd = await ownEtcd();
    await using proxy = Proxy.listen(Number(address(etcd).split(":")[1]));
    // the second one would take it
    using client = clientOf([`127.0.0.1:${proxy.port}`, address(etcd)]);
    await sendTxn(client, { compares: [], writes: [put("first", bytes("1"))] });
    proxy.hold("down");
    const lost = failure(sendTxn(client, { compares: [], writes: [put("a", bytes("1"))] }));
    await eventually(() => etcd.etcd.get("a"));
    proxy.cut();
    assert.deepEqual([(await lost).unsent, (await lost).code], [false, "UNAVAILABLE"]);
    // by now the other one is used
    await sendTxn(client, { compares: [], writes: [put("b", bytes("1"))] });
    assert.deepEqual(
      await Promise.all(["a", "b"].map(async (key) => (await etcd.etcd.get(key))!.version)),
      [1, 1],
    );
  },
);

Deno.test("a page whose answer is lost is read from the next server", strict, async () => {
  await using etcd = await ownEtcd();
  await etcd.etcd.put("a", "1");
  await using proxy = Proxy.listen(Number(address(etcd).split(":")[1]));
  using client = clientOf([`127.0.0.1:${proxy.port}`, address(etcd)]);
  const read = () => readRange(client, bytes("a"), bytes("b"), 1);
  await read();
  proxy.hold("down");
  const before = proxy.waiting.down;
  const page = read();
  await eventually(() => proxy.waiting.down > before);
  proxy.cut();
  assert.equal((await page).count, 1);
});

Deno.test(
  "a server that is killed under a call: lost; and where none is, certainly not sent",
  strict,
  async () => {
    await using etcd = await ownEtcd();
    using endpoint = endpointOf(address(etcd));
    const write = encodeTxn({ compares: [], writes: [put("a", bytes("1"))] });
    const options = { metadata: [], decode: decodeTxnResponse, timeoutMs: 20_000 };
    const connection = await endpoint.connected();
    const send = () => callRpc(connection, methodPath("KV", "Txn"), write, options);
    await send();
    etcd.freeze();
    const late = await failure(
      callRpc(connection, methodPath("KV", "Txn"), write, { ...options, timeoutMs: 100 }),
    );
    assert.deepEqual(late, { code: "DEADLINE_EXCEEDED", message: "no answer for 0.1 s", unsent: false });
    const lost = failure(send());
    await etcd.stop();
    assert.deepEqual([(await lost).code, (await lost).unsent], ["UNAVAILABLE", false]);
    assert.deepEqual((await failure(send())).unsent, true);
    const none = await failure(endpoint.connected());
    assert.deepEqual([none.code, none.unsent], ["UNAVAILABLE", true]);
    await etcd.start();
    assert.equal((await endpoint.connected()).usable, true);
  },
);

Deno.test("a reset while calls are under way lets them come to their end", strict, async () => {
  await using etcd = await ownEtcd();
  await using proxy = Proxy.listen(Number(address(etcd).split(":")[1]));
  using endpoint = endpointOf(`127.0.0.1:${proxy.port}`);
  const connection = await endpoint.connected();
  proxy.hold("down");
  const sent = callRpc(
    connection,
    methodPath("KV", "Txn"),
    encodeTxn({ compares: [], writes: [put("a", bytes("1"))] }),
    { metadata: [], decode: decodeTxnResponse, timeoutMs: 20_000 },
  );
  await eventually(() => etcd.etcd.get("a"));
  endpoint.reset();
  proxy.release("down");
  assert.equal((await sent).succeeded, true);
  await eventually(() => proxy.connections === 0);
});

Deno.test("of a name with several addresses the one that answers is used", strict, async () => {
  await using etcd = await ownEtcd();
  const { lookup } = dns;
  using _ = { [Symbol.dispose]: () => Object.assign(dns, { lookup }) };
  const found = ["127.0.0.2", "127.0.0.1"].map((address) => ({ address, family: 4 }));
  Object.assign(dns, { lookup: () => Promise.resolve(found) });
  const where = { hostname: "etcd.example", port: Number(address(etcd).split(":")[1]) };
  const socket = await openSocket(where, undefined);
  assert.equal(((socket as Deno.TcpConn).remoteAddr as Deno.NetAddr).hostname, "127.0.0.1");
  socket.close();
});

Deno.test(
  "a server that takes the connection and says nothing to TLS is given up",
  strict,
  async () => {
    using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const accepted = silent.accept();
    await assert.rejects(
      openSocket({ hostname: "127.0.0.1", port: silent.addr.port }, {}),
      /^Error: no connection within 3 s$/,
    );
    (await accepted).close();
  },
);
