/** When a watch is given up, by a clock that the test moves. */
import assert from "node:assert/strict";
import { concat } from "../../lib/core/codec.ts";
import type { EtcdClient } from "../../lib/etcd/client.ts";
import { Follower } from "../../lib/etcd/follow.ts";
import { FRAME, frame, uint32 } from "../../lib/etcd/frame.ts";
import { openRpc } from "../../lib/etcd/rpc.ts";
import { data, headers, Peer } from "../support/http2_peer.ts";
import { strict } from "../support/run.ts";
import { heldTimers } from "../support/timers.ts";

const FRESH_TIMEOUT_MS = 1_000;
/** WatchResponse: header { cluster_id: 7, revision: 1 }, created. */
const CREATED = [0x0a, 4, 0x08, 7, 0x18, 1, 0x18, 1];

function heldClock(): Disposable & { ms: number } {
  const { now } = performance;
  const clock = { ms: now.call(performance), [Symbol.dispose]: () => Object.assign(performance, { now }) };
  Object.assign(performance, { now: () => clock.ms });
  return clock;
}

/** A follower of a watch that the peer serves, which has said that it is created. */
async function follow(peer: Peer): Promise<{ follower: Follower; id: number }> {
  const stream: EtcdClient["stream"] = (_service, _name, message, decode, receive) =>
    Promise.resolve(openRpc(peer.connection, "/watch", message, { metadata: [], decode, receive }));
  const opening = Follower.open({ stream } as EtcdClient, { from: Uint8Array.of(1), to: Uint8Array.of(2) }, {
    position: 1,
    clusterId: "7",
    carefulProgress: false,
    fragment: false,
    freshTimeoutMs: FRESH_TIMEOUT_MS,
  });
  const { id } = await peer.next(FRAME.HEADERS);
  await peer.next(FRAME.DATA);
  await peer.write(headers(id), data(id, concat([[0], uint32(CREATED.length), CREATED])));
  return { follower: await opening, id };
}

/** What was written before has been read. */
async function untilRead(peer: Peer): Promise<void> {
  await peer.write(frame(FRAME.PING, 0, 0, new Uint8Array(8)));
  for (let type = -1; type !== FRAME.PING;) ({ type } = (await peer.read())!); // progress may be asked for before it
}

Deno.test(
  "a large response on a slow line is waited for as long as it grows, and no longer",
  strict,
  async () => {
    using timers = heldTimers();
    using clock = heldClock();
    using peer = await Peer.connect();
    const { follower: opened, id } = await follow(peer);
    using follower = opened;
    await peer.write(data(id, concat([[0], uint32(1_000_000)])));
    for (let i = 0; i < 5; i++) {
      clock.ms += 0.8 * FRESH_TIMEOUT_MS;
      await peer.write(data(id, new Uint8Array(1_000)));
      await untilRead(peer);
      timers.tick(1);
      assert.equal(follower.end, undefined, `after ${i + 1} parts`);
    }
    clock.ms += 1.1 * FRESH_TIMEOUT_MS;
    timers.tick(1);
    assert.match(String((follower.end as { error: Error }).error), /no event and no progress for 1 s/);
  },
);
