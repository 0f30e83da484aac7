/** Streams of HTTP/2 against a peer that says, frame by frame, what a server or a proxy may say. */
import assert from "node:assert/strict";
import { concat } from "../../lib/core/codec.ts";
import { Http2Error, TooLargeError } from "../../lib/etcd/exchange.ts";
import { ERROR, FLAG, FRAME, frame, readUint32, SETTING, uint32 } from "../../lib/etcd/frame.ts";
import { encodeHeaders } from "../../lib/etcd/hpack.ts";
import type { OpenStream } from "../../lib/etcd/http2.ts";
import {
  answer,
  data,
  goAway,
  headers,
  message,
  Peer,
  reset,
  settings,
  trailers,
  widen,
} from "../support/http2_peer.ts";
import { strict } from "../support/run.ts";

const text = new TextDecoder();
const bytes = (text: string) => new TextEncoder().encode(text);
const never = new AbortController().signal;

interface Opened extends OpenStream {
  id: number;
  /** What was received. */
  got: string[];
}

/** A stream whose first message, "?", the peer has got. */
async function open(
  peer: Peer,
  { maxBytes = 1e9, receive = (_: string): void => {} } = {},
): Promise<Opened> {
  const got: string[] = [];
  const request = { path: "/a/b", headers: [], message: bytes("?"), maxBytes };
  const stream = peer.connection.stream(request, (message) => {
    got.push(text.decode(message));
    receive(got.at(-1)!);
  });
  const { id } = await peer.next(FRAME.HEADERS);
  await assertSent(peer, id, "?");
  return { ...stream, id, got };
}

/** The next frame is this message, and not the last one. */
async function assertSent(peer: Peer, of: number, body: string): Promise<void> {
  const { id, flags, payload } = await peer.next(FRAME.DATA);
  assert.deepEqual({ id, flags, payload }, { id: of, flags: 0, payload: message(body) });
}

async function assertReset(peer: Peer, of: number): Promise<void> {
  const { id, payload } = await peer.next(FRAME.RST_STREAM);
  assert.deepEqual([id, readUint32(payload, 0)], [of, ERROR.CANCEL]);
}

/** The client has read all that was written before, and has written nothing but the answer to this. */
async function assertSilent(peer: Peer): Promise<void> {
  await peer.write(frame(FRAME.PING, 0, 0, new Uint8Array(8)));
  assert.equal((await peer.next(FRAME.PING)).flags, FLAG.ACK);
}

function ending({ ended }: OpenStream) {
  return ended.then(
    (headers) => headers.get("grpc-status"),
    (error) => error as Error & { unsent?: boolean },
  );
}

async function assertBroken(stream: OpenStream, unsent: boolean, words: RegExp): Promise<void> {
  const end = await ending(stream);
  assert.ok(end instanceof Http2Error, String(end));
  assert.match(end.message, words);
  assert.equal(end.unsent, unsent, `${end.message}: unsent`);
}

/** The connection takes calls as before, and nothing is left on it. */
async function assertWorks(peer: Peer): Promise<void> {
  const request = { path: "/a/b", headers: [], message: bytes("!"), maxBytes: 1e9 };
  const call = peer.connection.call(request, never);
  const { id } = await peer.request();
  await peer.write(answer(id, "yes"));
  assert.equal(text.decode((await call).message), "yes");
  peer.connection.retire();
  assert.equal(await peer.read(), null, "nothing is left on the connection");
}

const WORDS = ["one", "", "a longer one", "2", ""];

Deno.test(
  "messages are put together in order, however they are cut into frames and reads",
  strict,
  async () => {
    const all = concat(WORDS.map(message));
    const padded = (bytes: Uint8Array) => concat([[2], bytes, [0, 0]]);
    const cuts: Record<string, (id: number) => Uint8Array[]> = {
      "all in a frame": (id) => [data(id, all)],
      "a byte in a frame": (id) => [...all].map((byte) => data(id, Uint8Array.of(byte))),
      "padded, with empty frames between": (id) =>
        [...all].flatMap((byte) => [
          data(id, padded(Uint8Array.of(byte)), FLAG.PADDED),
          data(id, padded(new Uint8Array()), FLAG.PADDED),
          data(id, new Uint8Array()),
        ]),
      "by sevens": (id) =>
        Array.from(
          { length: Math.ceil(all.length / 7) },
          (_, i) => data(id, all.subarray(7 * i, 7 * i + 7)),
        ),
    };
    for (const byByte of [false, true]) {
      for (const [cut, frames] of Object.entries(cuts)) {
        using peer = await Peer.connect({ byByte });
        const stream = await open(peer);
        await peer.write(headers(stream.id), ...frames(stream.id), trailers(stream.id));
        assert.equal(await ending(stream), "0");
        assert.deepEqual(stream.got, WORDS, cut);
        await assertReset(peer, stream.id); // our side of it was open
        await assertWorks(peer);
      }
    }
  },
);

Deno.test("two streams and a call go on beside each other", strict, async () => {
  using peer = await Peer.connect();
  const [a, b] = [await open(peer), await open(peer)];
  const request = { path: "/a/b", headers: [], message: bytes("!"), maxBytes: 1e9 };
  const call = peer.connection.call(request, never);
  const { id } = await peer.request();
  const [first, second] = [message("of the first"), message("of the second")];
  await peer.write(headers(b.id), headers(a.id), data(a.id, first.subarray(0, 6)));
  await peer.write(data(b.id, second), answer(id, "yes"), data(a.id, first.subarray(6)), data(b.id, second));
  await assertSilent(peer);
  assert.equal(text.decode((await call).message), "yes");
  assert.deepEqual([a.got, b.got], [["of the first"], ["of the second", "of the second"]]);
  a.cancel();
  b.cancel();
  await assertReset(peer, a.id);
  await assertReset(peer, b.id);
});

Deno.test("what is sent on a stream goes in order, as far as the windows reach", strict, async () => {
  using peer = await Peer.connect();
  await peer.write(settings(SETTING.INITIAL_WINDOW_SIZE, 6 + 5 + 10));
  await peer.next(FRAME.SETTINGS);
  const stream = await open(peer);
  const long = "twenty bytes of words";
  stream.send(bytes(long));
  stream.send(bytes("b"));
  stream.send(bytes("c"));
  const sent: Uint8Array[] = [];
  const take = async () => sent.push((await peer.next(FRAME.DATA)).payload);
  await take();
  await assertSilent(peer);
  await peer.write(widen(stream.id, long.length - 10 + 6));
  await take();
  await take();
  await assertSilent(peer);
  await peer.write(widen(stream.id, 1_000));
  await take();
  assert.deepEqual(concat(sent), concat([long, "b", "c"].map(message)));
  stream.cancel();
  await assertReset(peer, stream.id);
  stream.send(bytes("too late"));
  await assertSilent(peer);
});

const WINDOW = 100_000;

/** What a server may put into a frame that was told nothing else. */
const FRAME_BYTES = 16_384;

function frames(id: number, bytes: Uint8Array): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / FRAME_BYTES) }, (_, i) => {
    return data(id, bytes.subarray(i * FRAME_BYTES, (i + 1) * FRAME_BYTES));
  });
}

/** Sends as a server does: never more than the window that it was given. Returns what is left of it. */
async function sendInWindow(peer: Peer, id: number, parts: Uint8Array[], window: number): Promise<number> {
  for (const part of parts) {
    const size = part.length - data(id, new Uint8Array()).length;
    while (window < size) {
      const granted = await peer.next(FRAME.WINDOW_UPDATE);
      assert.equal(granted.id, id);
      window += readUint32(granted.payload, 0);
      assert.ok(window <= WINDOW, "more than one window");
    }
    window -= size;
    await peer.write(part);
  }
  return window;
}

Deno.test("a message that is larger than the window, many times over, arrives", strict, async () => {
  using peer = await Peer.connect({ windowBytes: WINDOW });
  const stream = await open(peer);
  const large = "x".repeat(15 * WINDOW);
  await peer.write(headers(stream.id));
  await sendInWindow(
    peer,
    stream.id,
    frames(stream.id, concat([message(large), message("after it")])),
    WINDOW,
  );
  await assertSilentAfterGrants(peer);
  assert.deepEqual(stream.got.map((text) => text.length), [large.length, 8]);
  stream.cancel();
});

async function assertSilentAfterGrants(peer: Peer): Promise<void> {
  await peer.write(frame(FRAME.PING, 0, 0, new Uint8Array(8)));
  for (;;) {
    const next = await peer.read();
    if (next?.type === FRAME.PING) return;
    assert.equal(next?.type, FRAME.WINDOW_UPDATE);
  }
}

Deno.test(
  "a stream that is paused gets one window and no more; resumed, all of it again, padding included",
  strict,
  async () => {
    using peer = await Peer.connect({ windowBytes: WINDOW });
    const stream = await open(peer);
    await peer.write(headers(stream.id));
    for (let round = 0; round < 3; round++) {
      stream.pause();
      const first = concat([[255], message("a"), new Uint8Array(255)]);
      const rest = message("b".repeat(WINDOW - first.length - 5));
      const parts = [data(stream.id, first, FLAG.PADDED), ...frames(stream.id, rest)];
      assert.equal(await sendInWindow(peer, stream.id, parts, WINDOW), 0);
      await assertSilent(peer); // all has come, and no grant
      assert.deepEqual(stream.got.map((text) => text[0]), ["a", "b"], "what came is received");
      stream.got.length = 0;
      stream.resume();
      stream.resume();
      const { id, payload } = await peer.next(FRAME.WINDOW_UPDATE);
      assert.deepEqual([id, readUint32(payload, 0)], [stream.id, WINDOW]);
      await assertSilent(peer); // it is granted once
    }
    stream.cancel();
  },
);

Deno.test(
  "a stream that is paused within a message, or by it, has the rest when it is resumed",
  strict,
  async () => {
    using peer = await Peer.connect({ windowBytes: WINDOW });
    const stream: Opened = await open(peer, { receive: (text) => text === "stop" && stream.pause() });
    const large = "x".repeat(3 * WINDOW);
    await peer.write(headers(stream.id));
    const parts = frames(stream.id, concat([message("stop"), message(large), message("end")]));
    const fit = Math.floor(WINDOW / FRAME_BYTES);
    const left = await sendInWindow(peer, stream.id, parts.slice(0, fit), WINDOW);
    await assertSilent(peer);
    assert.deepEqual(stream.got, ["stop"]);
    stream.resume();
    await sendInWindow(peer, stream.id, parts.slice(fit), left);
    await assertSilentAfterGrants(peer);
    assert.deepEqual(stream.got.map((text) => text.length), [4, large.length, 3]);
    stream.cancel();
  },
);

Deno.test(
  "the connection's window is not that of a stream: one that is paused holds up no call",
  strict,
  async () => {
    using peer = await Peer.connect({ windowBytes: WINDOW });
    const stream = await open(peer);
    stream.pause();
    await peer.write(headers(stream.id));
    await sendInWindow(peer, stream.id, frames(stream.id, message("x".repeat(WINDOW - 5))), WINDOW);
    const request = { path: "/a/b", headers: [], message: bytes("!"), maxBytes: 1e9 };
    const call = peer.connection.call(request, never);
    const { id } = await peer.request();
    await peer.write(headers(id));
    await sendInWindow(peer, id, frames(id, message("y".repeat(3 * WINDOW))), WINDOW);
    await peer.write(trailers(id));
    assert.equal((await call).message?.length, 3 * WINDOW);
    stream.cancel();
  },
);

Deno.test("cancel: the server is told once, and nothing is received after it", strict, async () => {
  using peer = await Peer.connect();
  const stream = await open(peer);
  await peer.write(
    headers(stream.id),
    data(stream.id, message("one")),
    data(stream.id, message("two").subarray(0, 7)),
  );
  await assertSilent(peer);
  stream.cancel();
  stream.cancel();
  stream.resume();
  await assertReset(peer, stream.id);
  await assertBroken(stream, false, /was canceled/);
  await peer.write(
    data(stream.id, message("two").subarray(7)),
    data(stream.id, message("three")),
    trailers(stream.id),
  );
  await assertSilent(peer);
  assert.deepEqual(stream.got, ["one"]);
  await assertWorks(peer);
});

Deno.test(
  "a receiver that cancels, or throws, gets no more, not even of the same frame",
  strict,
  async () => {
    const throws = () => {
      throw new Error("not to be read");
    };
    for (const cancels of [true, false]) {
      using peer = await Peer.connect();
      const stream: Opened = await open(peer, { receive: () => cancels ? stream.cancel() : throws() });
      await peer.write(concat([
        headers(stream.id),
        data(stream.id, concat([message("one"), message("two")])),
        data(stream.id, message("three")),
      ]));
      const end = await ending(stream);
      assert.match(String(end), cancels ? /Http2Error: the stream was canceled/ : /^Error: not to be read/);
      await assertReset(peer, stream.id);
      assert.deepEqual(stream.got, ["one"]);
      await assertWorks(peer);
    }
  },
);

Deno.test(
  "a message that is too large ends its stream at its first bytes, and no other",
  strict,
  async () => {
    using peer = await Peer.connect();
    const stream = await open(peer, { maxBytes: 5 });
    const other = await open(peer);
    const head = message("larger").subarray(0, 5);
    await peer.write(headers(stream.id), data(stream.id, concat([message("small"), head])));
    const end = await ending(stream);
    assert.ok(end instanceof TooLargeError, String(end));
    await assertReset(peer, stream.id);
    await peer.write(headers(other.id), data(other.id, message("larger")));
    await assertSilent(peer);
    assert.deepEqual([stream.got, other.got], [["small"], ["larger"]]);
    other.cancel();
  },
);

Deno.test("the server ends a stream: its status, after all its messages", strict, async () => {
  using peer = await Peer.connect();
  const stream = await open(peer);
  const refused = encodeHeaders([["grpc-status", "14"], ["grpc-message", "etcdserver: no leader"]]);
  await peer.write(concat([
    headers(stream.id),
    data(stream.id, message("one")),
    trailers(stream.id, refused),
    reset(stream.id, ERROR.NO_ERROR), // as Go's server says it to a client that has not ended its side
  ]));
  assert.equal(await ending(stream), "14");
  assert.deepEqual(stream.got, ["one"]);
});

Deno.test("a stream that ends within a message is cut short", strict, async () => {
  using peer = await Peer.connect();
  const stream = await open(peer);
  await peer.write(headers(stream.id), data(stream.id, message("one").subarray(0, 6)), trailers(stream.id));
  await assertBroken(stream, false, /before its end/);
  await assertReset(peer, stream.id);
  await assertWorks(peer);
});

Deno.test(
  "the server resets a stream: it is lost, or refused where nothing was said on it",
  strict,
  async () => {
    for (
      const [said, code, unsent] of [[true, 7, false], [true, 2, false], [false, 7, true], [false, 2, false]]
    ) {
      using peer = await Peer.connect();
      const stream = await open(peer);
      await peer.write(concat([...said ? [headers(stream.id)] : [], reset(stream.id, Number(code))]));
      await assertBroken(stream, Boolean(unsent), /has reset the call/);
      await assertWorks(peer); // and the reset was not answered
    }
  },
);

Deno.test("a connection that is lost ends its streams, with what had come received", strict, async () => {
  for (const own of [false, true]) {
    using peer = await Peer.connect();
    const streams = [await open(peer), await open(peer)];
    streams[1].pause();
    for (const { id } of streams) {
      await peer.write(headers(id), data(id, message("one")), data(id, message("two").subarray(0, 6)));
    }
    await assertSilent(peer);
    if (own) peer.connection[Symbol.dispose]();
    else peer.end();
    for (const stream of streams) {
      await assertBroken(stream, false, own ? /was closed/ : /ended the connection|reset by peer/i);
      assert.deepEqual(stream.got, ["one"]);
      stream.send(bytes("too late"));
      stream.resume();
      stream.cancel();
    }
  }
});

Deno.test(
  "GOAWAY: a stream below its number goes on until its end, one above was refused",
  strict,
  async () => {
    using peer = await Peer.connect({ windowBytes: WINDOW });
    const below = await open(peer);
    const above = await open(peer);
    await peer.write(headers(below.id), goAway(below.id, ERROR.NO_ERROR));
    await assertBroken(above, true, /goes away/);
    assert.equal(peer.connection.usable, false);
    below.send(bytes("still there"));
    await assertSent(peer, below.id, "still there");
    await peer.write(data(below.id, message("one")));
    await sendInWindow(peer, below.id, frames(below.id, message("x".repeat(2 * WINDOW))), WINDOW - 8);
    await assertSilentAfterGrants(peer);
    assert.deepEqual(below.got.map((text) => text.length), [3, 2 * WINDOW]);
    below.cancel();
    assert.equal(await peer.read(), null, "the last one closes the connection");
  },
);

Deno.test(
  "a stream keeps a connection that was retired open, and closes it with its end",
  strict,
  async () => {
    using peer = await Peer.connect();
    const stream = await open(peer);
    peer.connection.retire();
    assert.throws(
      () => peer.connection.stream({ path: "/a", headers: [], message: bytes(""), maxBytes: 1 }, () => {}),
      (
        error,
      ) => error instanceof Http2Error && error.unsent,
    );
    await peer.write(headers(stream.id), data(stream.id, message("one")));
    await assertSilent(peer);
    assert.deepEqual(stream.got, ["one"]);
    await peer.write(trailers(stream.id));
    assert.equal(await ending(stream), "0");
    assert.equal(await peer.read(), null);
  },
);

Deno.test("a server whose first frame is none of HTTP/2's openings is not spoken to", strict, async () => {
  for (
    const first of [
      bytes("HTTP/1.1 400 Bad Request\r\n\r\n"),
      frame(FRAME.PING, 0, 0, new Uint8Array(8)),
      goAway(0, ERROR.NO_ERROR),
    ]
  ) {
    using peer = await Peer.connect({ first });
    await assert.rejects(peer.connection.ready, /does not speak HTTP\/2/);
    assert.equal(peer.connection.usable, false);
    assert.equal(await peer.read(), null);
  }
});

Deno.test(
  "a connection is ready with the server's settings, and what they say counts from the first call on",
  strict,
  async () => {
    using peer = await Peer.connect({ first: settings(SETTING.INITIAL_WINDOW_SIZE, 8) });
    await peer.connection.ready;
    await peer.next(FRAME.SETTINGS);
    const request = { path: "/a/b", headers: [], message: bytes("longer"), maxBytes: 1e9 };
    const call = peer.connection.call(request, never);
    const { id } = await peer.next(FRAME.HEADERS);
    assert.deepEqual((await peer.next(FRAME.DATA)).payload, concat([[0], uint32(6), bytes("lon")]));
    await peer.write(answer(id, "yes"));
    assert.equal(text.decode((await call).message), "yes");
  },
);

Deno.test("a connection that ends before the server's settings was never ready", strict, async () => {
  using peer = await Peer.connect({ first: new Uint8Array() });
  peer.end();
  await assert.rejects(peer.connection.ready, /ended the connection|reset by peer/i);
});
