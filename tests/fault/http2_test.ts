/** The client of HTTP/2 against a peer that says, frame by frame, what a server or a proxy may say. */
import assert from "node:assert/strict";
import { concat } from "../../lib/core/codec.ts";
import { ERROR, FLAG, FRAME, frame, readUint32, SETTING, uint32 } from "../../lib/etcd/frame.ts";
import { encodeHeaders } from "../../lib/etcd/hpack.ts";
import { Http2Error, TooLargeError } from "../../lib/etcd/exchange.ts";
import {
  answer,
  data,
  goAway,
  HEAD,
  headers,
  message,
  Peer,
  reset,
  settings,
  TRAILERS,
  trailers,
  widen,
} from "../support/http2_peer.ts";
import { strict } from "../support/run.ts";
import { heldTimers } from "../support/timers.ts";

const never = new AbortController().signal;

/** A call whose end is kept: its text, or its error. */
function call(peer: Peer, body: string | Uint8Array = "?", { signal = never, maxBytes = 1e9 } = {}) {
  const message = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const ends = peer.connection.call({ path: "/a/b", headers: [], message, maxBytes }, signal);
  return ends.then(
    ({ message, headers }) => ({
      text: new TextDecoder().decode(message),
      status: headers.get("grpc-status"),
      http: headers.get(":status"),
    }),
    (error) => error as Error & { unsent?: boolean },
  );
}

async function assertLost(ending: ReturnType<typeof call>, unsent: boolean, words: RegExp): Promise<void> {
  const end = await ending;
  assert.ok(end instanceof Http2Error, JSON.stringify(end));
  assert.match(end.message, words);
  assert.equal(end.unsent, unsent, `${end.message}: unsent`);
}

const done = (text: string) => ({ text, status: "0", http: "200" });

/** The connection takes calls as before. */
async function assertWorks(peer: Peer): Promise<void> {
  const next = call(peer, "still there");
  const { id, body } = await peer.request();
  assert.deepEqual(body, message("still there"));
  await peer.write(answer(id, "yes"));
  assert.deepEqual(await next, done("yes"));
}

Deno.test(
  "answers reach their own calls, in whatever order and however mixed their frames are",
  strict,
  async () => {
    using peer = await Peer.connect();
    const calls = [call(peer, "a"), call(peer, "b"), call(peer, "c")];
    const ids = [await peer.request(), await peer.request(), await peer.request()].map(({ id }) => id);
    assert.deepEqual(ids, [1, 3, 5]);
    const [a, b, c] = ["first", "second", "third"].map(message);
    await peer.write(
      headers(5),
      headers(1),
      data(5, c.subarray(0, 3)),
      data(1, a.subarray(0, 6)),
      headers(3),
      data(3, b),
      data(5, c.subarray(3)),
      trailers(5),
      data(1, a.subarray(6)),
      trailers(3),
      trailers(1),
    );
    assert.deepEqual(await Promise.all(calls), ["first", "second", "third"].map(done));
  },
);

Deno.test(
  "frames may arrive byte by byte, padded, with a priority, and headers in parts",
  strict,
  async () => {
    using peer = await Peer.connect();
    const sent = call(peer);
    const { id } = await peer.request();
    const padded = (bytes: Uint8Array) => concat([[3], bytes, [0, 0, 0]]);
    const whole = message("answer");
    const bytes = concat([
      headers(id, concat([[2], uint32(0), [7], HEAD.subarray(0, 4), [0, 0]]), FLAG.PADDED | FLAG.PRIORITY),
      frame(FRAME.CONTINUATION, 0, id, HEAD.subarray(4, 9)),
      frame(FRAME.CONTINUATION, FLAG.END_HEADERS, id, HEAD.subarray(9)),
      data(id, padded(whole.subarray(0, 2)), FLAG.PADDED),
      data(id, padded(new Uint8Array()), FLAG.PADDED),
      data(id, new Uint8Array()),
      data(id, padded(whole.subarray(2)), FLAG.PADDED),
      frame(99, 0xff, id, whole), // a type that is not known
      headers(id, concat([[1], TRAILERS, [0]]), FLAG.PADDED | FLAG.END_HEADERS | FLAG.END_STREAM),
    ]);
    for (const byte of bytes) await peer.write(Uint8Array.of(byte));
    assert.deepEqual(await sent, done("answer"));
  },
);

Deno.test(
  "a request is sent as far as the windows of the call and of the connection reach",
  strict,
  async () => {
    using peer = await Peer.connect();
    const body = crypto.getRandomValues(new Uint8Array(60_000));
    await peer.write(settings(SETTING.INITIAL_WINDOW_SIZE, 0));
    await peer.next(FRAME.SETTINGS);
    const sent = call(peer, body);
    const { id } = await peer.next(FRAME.HEADERS);
    let got: Uint8Array = new Uint8Array();
    const take = async (size: number) => {
      for (const until = got.length + size; got.length < until;) {
        const { payload } = await peer.next(FRAME.DATA);
        got = concat([got, payload]);
        assert.ok(got.length <= until, "more than was granted");
      }
    };
    /** All that was granted has come, and no more. */
    const assertWaits = async () => {
      await peer.write(frame(FRAME.PING, 0, 0, new Uint8Array(8)));
      await peer.next(FRAME.PING);
    };
    await assertWaits();
    await peer.write(widen(id, 10));
    await take(10);
    await assertWaits();
    await peer.write(settings(SETTING.INITIAL_WINDOW_SIZE, 20_000)); // counts for what is under way
    await peer.next(FRAME.SETTINGS);
    await take(20_000);
    // a window may become negative, and opens only where it is above 0 again
    await peer.write(settings(SETTING.INITIAL_WINDOW_SIZE, 5_000));
    await peer.next(FRAME.SETTINGS);
    await peer.write(widen(id, 15_000));
    await assertWaits();
    await peer.write(widen(id, 7));
    await take(7);
    await peer.write(widen(id, 1_000_000));
    await take(60_005 - got.length);
    assert.deepEqual(got, concat([[0], uint32(body.length), body]));
    await peer.write(answer(id, "all"));
    assert.deepEqual(await sent, done("all"));

    // 65,535 bytes of the connection's window: 5,530 are left
    const next = call(peer, new Uint8Array(10_000));
    const second = await peer.next(FRAME.HEADERS);
    await peer.write(widen(second.id, 1_000_000));
    got = new Uint8Array();
    await take(5_530);
    await assertWaits();
    await peer.write(widen(0, 1_000_000));
    await take(10_005 - 5_530);
    await peer.write(answer(second.id, "too"));
    assert.deepEqual(await next, done("too"));
  },
);

Deno.test(
  "an answer that comes before all was sent: the rest is not sent, and the server is told",
  strict,
  async () => {
    for (const serverResets of [true, false]) {
      using peer = await Peer.connect();
      const sent = call(peer, new Uint8Array(200_000));
      const { id } = await peer.next(FRAME.HEADERS);
      for (let got = 0; got < 65_535;) got += (await peer.next(FRAME.DATA)).payload.length;
      const refused = encodeHeaders([[":status", "200"], ["grpc-status", "8"], [
        "grpc-message",
        "too large",
      ]]);
      await peer.write(concat([trailers(id, refused), ...serverResets ? [reset(id, ERROR.NO_ERROR)] : []]));
      assert.deepEqual(await sent, { text: "", status: "8", http: "200" });
      if (!serverResets) assert.equal((await peer.next(FRAME.RST_STREAM)).id, id);
      await peer.write(widen(id, 1_000_000), widen(0, 1_000_000));
      if (!serverResets) await assertWorks(peer);
    }
  },
);

Deno.test(
  "GOAWAY: calls above its number were not carried out, those below come to their end",
  strict,
  async () => {
    using peer = await Peer.connect();
    const calls = [call(peer, "a"), call(peer, "b"), call(peer, "c")];
    for (const _ of calls) await peer.request();
    await peer.write(headers(1), goAway(3, ERROR.NO_ERROR));
    await assertLost(calls[2], true, /goes away/);
    assert.equal(peer.connection.usable, false);
    await assertLost(call(peer, "late"), true, /no more calls/);
    await peer.write(data(1, message("one")), trailers(1), answer(3, "two"));
    assert.deepEqual(await calls[0], done("one"));
    assert.deepEqual(await calls[1], done("two"));
    assert.equal(await peer.read(), null, "the connection is closed");
  },
);

Deno.test("GOAWAY in two steps: at the first nobody is turned away", strict, async () => {
  using peer = await Peer.connect();
  const first = call(peer, "a");
  await peer.request();
  const second = call(peer, "b");
  await peer.write(goAway(2 ** 31 - 1, ERROR.NO_ERROR), frame(FRAME.PING, 0, 0, new Uint8Array(8)));
  await peer.request();
  await peer.next(FRAME.PING);
  await peer.write(goAway(1, ERROR.NO_ERROR));
  await assertLost(second, true, /goes away/);
  await peer.write(answer(1, "one"));
  assert.deepEqual(await first, done("one"));
  assert.equal(await peer.read(), null);
});

Deno.test("GOAWAY for an error: what the server may have carried out is lost", strict, async () => {
  using peer = await Peer.connect();
  const calls = [call(peer, "a"), call(peer, "b")];
  for (const _ of calls) await peer.request();
  await peer.write(goAway(1, 11));
  await assertLost(calls[0], false, /goes away \(11\)/);
  await assertLost(calls[1], true, /goes away \(11\)/);
  await assertLost(call(peer, "late"), true, /goes away/);
});

Deno.test("GOAWAY on a connection that nobody uses closes it", strict, async () => {
  using peer = await Peer.connect();
  await peer.write(goAway(0, ERROR.NO_ERROR));
  assert.equal(await peer.read(), null);
  assert.equal(peer.connection.usable, false);
});

Deno.test("RST_STREAM: only a stream that was refused was certainly not carried out", strict, async () => {
  for (const code of [ERROR.NO_ERROR, 1, 2, 5, ERROR.REFUSED_STREAM, ERROR.CANCEL, 11]) {
    using peer = await Peer.connect();
    const sent = call(peer);
    const { id } = await peer.request();
    await peer.write(reset(id, code));
    await assertLost(sent, code === ERROR.REFUSED_STREAM, /has reset the call/);
    await assertWorks(peer); // and the reset was not answered
  }
});

Deno.test(
  "RST_STREAM after a part of the answer is never a refusal, and after all of it means nothing",
  strict,
  async () => {
    using peer = await Peer.connect();
    const sent = call(peer);
    const { id } = await peer.request();
    await peer.write(headers(id), reset(id, ERROR.REFUSED_STREAM));
    await assertLost(sent, false, /has reset the call/);
    const next = call(peer);
    await peer.request();
    await peer.write(concat([answer(3, "whole"), reset(3, ERROR.REFUSED_STREAM)]));
    assert.deepEqual(await next, done("whole"));
    await assertWorks(peer);
  },
);

const PHASES: Record<string, Uint8Array> = {
  "nothing": new Uint8Array(),
  "half a head of a frame": headers(1).subarray(0, 4),
  "the headers": headers(1),
  "half of the message": concat([headers(1), data(1, message("answer")).subarray(0, 17)]),
  "the message, not its status": concat([headers(1), data(1, message("answer"))]),
};

for (const [phase, bytes] of Object.entries(PHASES)) {
  Deno.test(
    `a connection that ends after ${phase}: the answer is lost, the next call unsent`,
    strict,
    async () => {
      using peer = await Peer.connect();
      const sent = call(peer);
      await peer.request();
      await peer.write(bytes);
      peer.end();
      await assertLost(sent, false, /ended the connection|reset by peer/i);
      assert.equal(peer.connection.usable, false);
      await assertLost(call(peer), true, /ended the connection|reset by peer/i);
    },
  );
}

Deno.test(
  "a connection that is closed under a call: the answer is lost, the next call unsent",
  strict,
  async () => {
    using peer = await Peer.connect();
    const sent = call(peer, new Uint8Array(10_000_000)); // waits for the window
    await peer.next(FRAME.HEADERS);
    peer.connection[Symbol.dispose]();
    await assertLost(sent, false, /was closed/);
    await assertLost(call(peer), true, /was closed/);
  },
);

Deno.test("a connection that is retired is closed by the last of its calls", strict, async () => {
  using peer = await Peer.connect();
  const sent = call(peer);
  const { id } = await peer.request();
  peer.connection.retire();
  await assertLost(call(peer), true, /no more calls/);
  await peer.write(answer(id, "in time"));
  assert.deepEqual(await sent, done("in time"));
  assert.equal(await peer.read(), null);
});

Deno.test(
  "of a call that was given up the rest of the answer is thrown away, and no other gets it",
  strict,
  async () => {
    using peer = await Peer.connect();
    const given = new AbortController();
    const first = call(peer, "a", { signal: given.signal });
    const { id } = await peer.request();
    const whole = message("the first");
    await peer.write(headers(id), data(id, whole.subarray(0, 7)));
    given.abort(new Error("enough"));
    assert.equal(String(await first), "Error: enough");
    const stop = await peer.next(FRAME.RST_STREAM);
    assert.deepEqual([stop.id, readUint32(stop.payload, 0)], [id, ERROR.CANCEL]);
    const second = call(peer, "b");
    await peer.request();
    await peer.write(headers(3), data(id, whole.subarray(7)), data(3, message("the second")));
    await peer.write(trailers(id), trailers(3));
    assert.deepEqual(await second, done("the second"));

    const early = await call(peer, "c", { signal: given.signal });
    assert.equal(String(early), "Error: enough");
    await assertWorks(peer); // nothing was sent of the third
  },
);

Deno.test("a call that is given up while it waits for the window sends no more", strict, async () => {
  using peer = await Peer.connect();
  // the call's own window is wide: only the connection's holds it
  await peer.write(settings(SETTING.INITIAL_WINDOW_SIZE, 1_000_000));
  await peer.next(FRAME.SETTINGS);
  const given = new AbortController();
  const sent = call(peer, new Uint8Array(100_000), { signal: given.signal });
  const { id } = await peer.next(FRAME.HEADERS);
  for (let got = 0; got < 65_535;) got += (await peer.next(FRAME.DATA)).payload.length;
  given.abort(new Error("enough"));
  assert.equal(String(await sent), "Error: enough");
  assert.equal((await peer.next(FRAME.RST_STREAM)).id, id);
  await peer.write(widen(id, 1_000_000), widen(0, 1_000_000));
  await assertWorks(peer);
});

Deno.test("an answer that is too large, compressed, twice there or cut short is none", strict, async () => {
  using peer = await Peer.connect();
  const large = call(peer, "?", { maxBytes: 5 });
  await peer.request();
  await peer.write(headers(1), data(1, message("larger").subarray(0, 5))); // known from its first bytes
  assert.ok(await large instanceof TooLargeError);
  assert.equal((await peer.next(FRAME.RST_STREAM)).id, 1);
  await peer.write(data(1, message("larger").subarray(5)), trailers(1));

  const bad: [RegExp, Uint8Array][] = [
    [/compressed/, Uint8Array.of(1, 0, 0, 0, 1, 65)],
    [/more than one/, concat([message("a"), message("b")])],
    [/more than one/, concat([message(""), message("")])],
    [/before its end/, message("answer").subarray(0, 8)],
    [/before its end/, message("answer").subarray(0, 3)],
  ];
  for (const [words, bytes] of bad) {
    using peer = await Peer.connect();
    const sent = call(peer);
    const { id } = await peer.request();
    await peer.write(headers(id), data(id, bytes), trailers(id));
    await assertLost(sent, false, words);
  }
});

Deno.test(
  "what a proxy answers in the server's place is told by its status, and its page is no message",
  strict,
  async () => {
    using peer = await Peer.connect();
    const sent = call(peer);
    const { id } = await peer.request();
    const page = new TextEncoder().encode("<html>Bad Gateway</html>");
    const head = encodeHeaders([[":status", "502"], ["content-type", "text/html"]]);
    await peer.write(headers(id, head), data(id, page, FLAG.END_STREAM));
    assert.deepEqual(await sent, { text: "", status: undefined, http: "502" });
    await assertWorks(peer);
  },
);

Deno.test("headers that go on elsewhere, or cannot be read, end the connection", strict, async () => {
  for (const frames of [[headers(1, HEAD, 0), data(1, message("a"))], [headers(1, Uint8Array.of(0xff))]]) {
    using peer = await Peer.connect();
    const sent = call(peer);
    await peer.request();
    await peer.write(...frames);
    await assertLost(sent, false, /do not go on|ends early/);
    assert.equal(await peer.read(), null);
  }
});

Deno.test(
  "a connection that is silent under a call is asked whether it lives, and given up if it does not say so",
  strict,
  async () => {
    using pulse = heldTimers();
    using peer = await Peer.connect();
    assert.equal(pulse.running(), 0);
    const sent = call(peer);
    await peer.request();
    assert.equal(pulse.running(), 1);
    pulse.tick(2);
    assert.equal((await peer.next(FRAME.PING)).flags, 0);
    pulse.tick(1); // one more is not enough: it may be this program that has stood still
    assert.equal(peer.connection.usable, true);
    pulse.tick(1);
    await assertLost(sent, false, /is dead/);
    assert.equal(pulse.running(), 0);
    assert.equal(await peer.read(), null);
  },
);

Deno.test(
  "a connection that is slow, but says that it lives, is kept for as long as it takes",
  strict,
  async () => {
    using pulse = heldTimers();
    using peer = await Peer.connect();
    const sent = call(peer);
    const { id } = await peer.request();
    for (let i = 0; i < 5; i++) {
      pulse.tick(3);
      const { payload } = await peer.next(FRAME.PING);
      // the client's answer to the second one proves that it has read the first
      await peer.write(
        frame(FRAME.PING, FLAG.ACK, 0, payload),
        frame(FRAME.PING, 0, 0, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)),
      );
      const answered = await peer.next(FRAME.PING);
      assert.deepEqual([answered.flags, ...answered.payload], [FLAG.ACK, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    await peer.write(answer(id, "at last"));
    assert.deepEqual(await sent, done("at last"));
    assert.equal(pulse.running(), 0);
  },
);
