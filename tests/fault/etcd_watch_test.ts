/** The follower of a watch, against etcd: more than it can hold, and servers that end. */
import assert from "node:assert/strict";
import { EtcdClient } from "../../lib/etcd/client.ts";
import type { TlsFiles } from "../../lib/etcd/endpoint.ts";
import { EtcdError, STATUS } from "../../lib/etcd/error.ts";
import { Follower } from "../../lib/etcd/follow.ts";
import { isTooLarge, readKey, sendTxn } from "../../lib/etcd/kv.ts";
import { WATCH_WINDOW_BYTES } from "../../lib/etcd/watch.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { Proxy } from "../robustness/proxy.ts";
import { strict } from "../support/run.ts";
import { type OwnEtcd, ownEtcd, tempDir } from "../support/servers.ts";
import { makeAuthority } from "../support/tls.ts";
import { eventually } from "../support/world.ts";

const ALL = { from: Uint8Array.of(0), to: Uint8Array.of(0) };
const never = new AbortController().signal;
const portOf = ({ dsn }: OwnEtcd) => Number(new URL(dsn.replace("etcd:", "http:")).port);

function watchOf(ports: number[], tls?: TlsFiles): EtcdClient & Disposable {
  const endpoints = ports.map((port) => `127.0.0.1:${port}`);
  const client = new EtcdClient({ endpoints, tls }, { windowBytes: WATCH_WINDOW_BYTES });
  return Object.assign(client, { [Symbol.dispose]: () => client.close() });
}

async function follow(client: EtcdClient, position: number, fragment = false): Promise<Follower> {
  const { clusterId } = await readKey(client, Uint8Array.of(1));
  const options = { position, clusterId, fragment, carefulProgress: false, freshTimeoutMs: 20_000 };
  return await Follower.open(client, ALL, options);
}

/** Puts keys of this size, each in a revision of its own; the last revision. */
async function write(client: EtcdClient, count: number, bytes = 1): Promise<number> {
  let last = 0;
  for (let i = 0; i < count; i++) {
    const value = new Uint8Array(bytes);
    const put = { key: new TextEncoder().encode(`a${i}`), value, keepLease: false };
    last = (await sendTxn(client, { compares: [], writes: [put] })).revision;
  }
  return last;
}

/** Takes what comes, up to this revision or the follower's end; the revisions of its events. */
async function takeUpTo(follower: Follower, revision: number, batches: number[] = []): Promise<number[]> {
  const revisions: number[] = [];
  for (let at = 0; at < revision;) {
    const batch = follower.take();
    if (batch) {
      at = batch.to;
      batches.push(batch.bytes);
      revisions.push(...batch.events.map(({ kv }) => kv.modRevision));
    } else if (follower.end) break;
    else await follower.arrival(never);
  }
  return revisions;
}

function upTo(last: number, first = 2): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

function errorOf({ end }: Follower): EtcdError {
  assert.equal(end?.kind, "broken");
  const { error } = end as { error: unknown };
  assert.ok(error instanceof EtcdError, String(error));
  return error;
}

const MB = 1_000_000;
/** The 16 MiB that may wait, a window of 4 MiB, a message or two, and what was on its way to the watch before. */
const MOST_BYTES = 32 * MB;

for (const secure of [false, true]) {
  Deno.test(
    `a backlog that is larger than a message may be, and a reader that is slow, by ${
      secure ? "TLS" : "plain text"
    }`,
    strict,
    async () => {
      await using dir = await tempDir();
      const authority = await makeAuthority(dir.path);
      const { cert, key } = await authority.issue("server", "IP:127.0.0.1");
      const port = freePort();
      const urls = (plain: number) => `http://127.0.0.1:${plain},https://127.0.0.1:${port}`;
      await using etcd = await ownEtcd((plain) => [
        ...["--listen-client-urls", urls(plain), "--advertise-client-urls", urls(plain)],
        ...["--cert-file", cert, "--key-file", key],
      ]);
      await using proxy = Proxy.listen(secure ? port : portOf(etcd));
      using writer = watchOf([portOf(etcd)]);
      const last = await write(writer, 60, MB);

      using client = watchOf([proxy.port], secure ? { ca: authority.ca } : undefined);
      using whole = await follow(client, 1);
      assert.deepEqual(await takeUpTo(whole, last), []);
      assert.ok(isTooLarge(errorOf(whole)), errorOf(whole).message);
      client.startOver();

      const before = proxy.passed.down;
      using follower = await follow(client, 1, true);
      await eventually(() => proxy.passed.down - before > 16 * MB);
      // calls on the same connection go on, and each gives etcd the time to send more of the watch
      for (let i = 0; i < 100; i++) await readKey(client, Uint8Array.of(1));
      assert.ok(proxy.passed.down - before < MOST_BYTES, `${proxy.passed.down - before} bytes wait`);
      const batches: number[] = [];
      assert.deepEqual(await takeUpTo(follower, last, batches), upTo(last));
      assert.equal(follower.end, undefined);
      assert.ok(Math.max(...batches) <= 4 * MB + MB);
    },
  );
}

Deno.test("etcd is killed under a watch, again and again: each event once, in order", strict, async () => {
  await using etcd = await ownEtcd();
  using writer = watchOf([portOf(etcd)]);
  using client = watchOf([portOf(etcd)]);
  let position = 1;
  for (let round = 0; round < 4; round++) {
    const first = position + 1;
    using follower = await eventually(() => follow(client, position));
    const middle = await eventually(() => write(writer, 50));
    const got = await takeUpTo(follower, middle);
    await write(writer, 50, 10_000);
    await etcd.stop();
    const rest = await takeUpTo(follower, Infinity);
    assert.equal(errorOf(follower).code, STATUS.UNAVAILABLE);
    client.startOver();
    const seen = [...got, ...rest];
    position = seen.at(-1)!;
    assert.ok(position >= middle);
    assert.deepEqual(seen, upTo(position, first));
    await etcd.start();
  }
});

Deno.test("a watch that is cut goes on at the next server", strict, async () => {
  await using etcd = await ownEtcd();
  await using proxy = Proxy.listen(portOf(etcd));
  using writer = watchOf([portOf(etcd)]);
  using client = watchOf([proxy.port, portOf(etcd)]);
  using first = await follow(client, 1);
  assert.deepEqual(await takeUpTo(first, await write(writer, 3)), [2, 3, 4]);
  proxy.refuse();
  proxy.cut();
  assert.deepEqual(await takeUpTo(first, Infinity), []);
  assert.equal(errorOf(first).code, STATUS.UNAVAILABLE);
  client.startOver();
  const passed = proxy.passed.down;
  using second = await follow(client, 4);
  assert.deepEqual(await takeUpTo(second, await write(writer, 3)), [5, 6, 7]);
  assert.equal(proxy.passed.down, passed);
});

Deno.test("a follower that is closed, in whatever state, leaves nothing open", strict, async () => {
  await using etcd = await ownEtcd();
  using writer = watchOf([portOf(etcd)]);
  await write(writer, 40, MB);
  for (const end of ["at once", "paused", "after its client", "with its server"]) {
    using client = watchOf([portOf(etcd)]);
    const follower = await follow(client, 1, true);
    if (end === "paused") await follower.arrival(never);
    if (end === "after its client") client.close();
    if (end === "with its server") await etcd.stop();
    follower[Symbol.dispose]();
    follower[Symbol.dispose]();
    follower.requestProgress();
    if (end !== "with its server") await eventually(async () => await watchers(etcd) === 0);
  }
});

async function watchers(etcd: OwnEtcd): Promise<number> {
  const metrics = await (await fetch(`http://127.0.0.1:${portOf(etcd)}/metrics`)).text();
  return Number(/^etcd_debugging_mvcc_watcher_total (\S+)$/m.exec(metrics)![1]);
}
