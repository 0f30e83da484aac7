/** Servers that take a connection, and no call. */
import assert from "node:assert/strict";
import { Endpoint } from "../../lib/etcd/endpoint.ts";
import { EtcdError, STATUS } from "../../lib/etcd/error.ts";
import { ERROR, FRAME, frame } from "../../lib/etcd/frame.ts";
import { goAway } from "../support/http2_peer.ts";
import { strict } from "../support/run.ts";

/** A client that has not had enough then never has. */
const MOST = 20;

/** A server that says `opening` to everyone, until it is closed. */
class Listener implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #served: Promise<unknown>;
  connections = 0;

  constructor(opening: Uint8Array) {
    this.#served = this.#serve(opening);
  }

  get address(): string {
    return `127.0.0.1:${this.#listener.addr.port}`;
  }

  /** The clients have closed all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.connections < MOST) this.#listener.close();
    await this.#served;
  }

  async #serve(opening: Uint8Array): Promise<void> {
    const all: Promise<void>[] = [];
    for await (const socket of this.#listener) {
      all.push(read(socket, opening));
      if (++this.connections === MOST) break; // which closes the listener
    }
    await Promise.all(all);
  }
}

async function read(socket: Deno.TcpConn, opening: Uint8Array): Promise<void> {
  using _ = socket;
  if (opening.length > 0) await socket.write(opening);
  const into = new Uint8Array(65_536);
  try {
    while (await socket.read(into) !== null);
  } catch {
    // it was reset
  }
}

function isUnsent(words: RegExp): (error: unknown) => boolean {
  return (error) =>
    error instanceof EtcdError && error.unsent && error.code === STATUS.UNAVAILABLE &&
    words.test(error.message);
}

// a loop of new connections, without an end
Deno.test("a server that goes away as soon as it is asked is asked once", strict, async () => {
  const opening = [...frame(FRAME.SETTINGS, 0, 0, []), ...goAway(0, ERROR.NO_ERROR)];
  await using server = new Listener(Uint8Array.from(opening));
  const endpoint = new Endpoint(server.address, undefined);
  const both = await Promise.allSettled([endpoint.connected(), endpoint.connected()]);
  for (const each of both) {
    assert.ok(each.status === "rejected" && isUnsent(/takes no calls/)(each.reason), JSON.stringify(each));
  }
  assert.ok(server.connections <= both.length, String(server.connections));
});

// each try left a socket open; node:tls gives it back since Deno 2.7, and before when the server ends
const canLeave = Number(/^2\.(\d+)/.exec(Deno.version.deno)?.[1] ?? 7) >= 7;

for (const tls of [undefined, {}]) {
  const way = tls ? "TLS" : "plain text";
  const ignore = tls !== undefined && !canLeave;
  const why = ignore ? " (ignored: not before Deno 2.7)" : "";
  Deno.test(
    `a server that takes a connection and says nothing is left, by ${way}${why}`,
    { ...strict, ignore },
    async () => {
      await using server = new Listener(new Uint8Array());
      const endpoint = new Endpoint(server.address, tls);
      await assert.rejects(endpoint.connected(), isUnsent(/no connection within 3 s/));
    },
  );
}
