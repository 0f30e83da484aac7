/** The proxy itself, before a server that answers each line with `<line>!`, and keeps what it read. */
import assert from "node:assert/strict";
import { strict } from "../support/schema.ts";
import { eventually } from "../support/eventually.ts";
import { type Direction, Proxy } from "./proxy.ts";

class Echo implements AsyncDisposable {
  readonly port: number;
  /** All that arrived, of all connections. */
  heard = "";
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #serving: Promise<void>;

  constructor() {
    this.port = this.#listener.addr.port;
    this.#serving = this.#serve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#serving;
  }

  async #serve(): Promise<void> {
    const all: Promise<void>[] = [];
    for (;;) {
      const conn = await this.#listener.accept().catch(() => null);
      if (!conn) break;
      all.push(this.#answer(conn));
    }
    await Promise.all(all);
  }

  async #answer(conn: Deno.TcpConn): Promise<void> {
    using _ = conn;
    try {
      for await (const line of lines(conn)) {
        this.heard += `${line}\n`;
        await conn.write(new TextEncoder().encode(`${line}!\n`));
      }
    } catch {
      // it was cut
    }
  }
}

async function* lines(conn: Deno.TcpConn): AsyncGenerator<string> {
  const buffer = new Uint8Array(1024);
  let rest = "";
  for (let count = await conn.read(buffer); count !== null; count = await conn.read(buffer)) {
    const parts = (rest + new TextDecoder().decode(buffer.subarray(0, count))).split("\n");
    rest = parts.pop()!;
    yield* parts;
  }
}

class Client implements AsyncDisposable {
  answers: string[] = [];
  ended = false;
  readonly #reading: Promise<void>;

  constructor(readonly conn: Deno.TcpConn) {
    this.#reading = this.#read();
  }

  static async connect({ port }: Proxy): Promise<Client> {
    return new Client(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  async say(line: string): Promise<void> {
    await this.conn.write(new TextEncoder().encode(`${line}\n`));
  }

  async hears(line: string): Promise<void> {
    await eventually(() => this.answers.includes(line));
  }

  async #read(): Promise<void> {
    try {
      for await (const line of lines(this.conn)) this.answers.push(line);
    } catch {
      // it was cut
    }
    this.ended = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.conn.close();
    await this.#reading;
  }
}

Deno.test("a proxy passes both ways, and counts", strict, async () => {
  await using echo = new Echo();
  await using proxy = Proxy.listen(echo.port);
  await using client = await Client.connect(proxy);
  await client.say("one");
  await client.hears("one!");
  assert.deepEqual(proxy.passed, { up: 4, down: 5 });
  assert.equal(proxy.connections, 1);
  assert.equal(proxy.upstreamPorts.length, 1);
});

for (const direction of ["up", "down"] as Direction[]) {
  Deno.test(`held ${direction}, bytes wait until they are released, in order`, strict, async () => {
    await using echo = new Echo();
    await using proxy = Proxy.listen(echo.port);
    await using client = await Client.connect(proxy);
    proxy.hold(direction);
    await client.say("one");
    await client.say("two");
    if (direction === "down") await eventually(() => echo.heard === "one\ntwo\n");
    // another proxy to the same server says that the held one had its time
    await using other = Proxy.listen(echo.port);
    await using witness = await Client.connect(other);
    await witness.say("witness");
    await witness.hears("witness!");
    assert.deepEqual(client.answers, []);
    if (direction === "up") assert.equal(echo.heard, "witness\n");
    proxy.release(direction);
    await eventually(() => client.answers.join() === "one!,two!");
  });
}

Deno.test("a request that was held arrives, though its sender is gone", strict, async () => {
  await using echo = new Echo();
  await using proxy = Proxy.listen(echo.port);
  {
    await using client = await Client.connect(proxy);
    await client.say("warm");
    await client.hears("warm!");
    proxy.hold("up");
    await client.say("late");
  }
  proxy.release();
  await eventually(() => echo.heard === "warm\nlate\n");
  await eventually(() => proxy.connections === 0);
});

Deno.test(
  "a lost answer: the request arrives, the answer does not, the connection is cut",
  strict,
  async () => {
    await using echo = new Echo();
    await using proxy = Proxy.listen(echo.port);
    await using client = await Client.connect(proxy);
    const lost = proxy.loseAnswer();
    await client.say("one");
    await lost;
    await eventually(() => client.ended);
    assert.deepEqual(client.answers, []);
    assert.equal(echo.heard, "one\n");
    await using next = await Client.connect(proxy);
    await next.say("two");
    await next.hears("two!");
  },
);

Deno.test(
  "what is cut ends at once, also while it is held; new connections are accepted",
  strict,
  async () => {
    await using echo = new Echo();
    await using proxy = Proxy.listen(echo.port);
    await using client = await Client.connect(proxy);
    await client.say("one");
    await client.hears("one!");
    proxy.hold("up");
    await client.say("lost");
    proxy.cut();
    await eventually(() => client.ended);
    proxy.release();
    await using next = await Client.connect(proxy);
    await next.say("two");
    await next.hears("two!");
    assert.equal(echo.heard, "one\ntwo\n");
  },
);

Deno.test("refused connections are closed; those that there are stay", strict, async () => {
  await using echo = new Echo();
  await using proxy = Proxy.listen(echo.port);
  await using client = await Client.connect(proxy);
  await client.say("one");
  await client.hears("one!");
  proxy.refuse();
  await using refused = await Client.connect(proxy);
  await eventually(() => refused.ended);
  await client.say("two");
  await client.hears("two!");
  proxy.heal();
  await using next = await Client.connect(proxy);
  await next.say("three");
  await next.hears("three!");
});

Deno.test("a slow proxy passes everything, at its pace", strict, async () => {
  await using echo = new Echo();
  await using proxy = Proxy.listen(echo.port);
  await using client = await Client.connect(proxy);
  proxy.slow({ delayMs: 100, bytesPerSecond: 100 }, "down");
  const began = performance.now();
  await client.say("one");
  await client.hears("one!");
  assert.ok(performance.now() - began >= 100, "no sooner than its delay");
  proxy.heal();
});

Deno.test("a proxy that points elsewhere takes new connections there", strict, async () => {
  await using echo = new Echo();
  await using other = new Echo();
  await using proxy = Proxy.listen(echo.port);
  await using client = await Client.connect(proxy);
  await client.say("one");
  await client.hears("one!");
  proxy.pointTo(other.port);
  await using next = await Client.connect(proxy);
  await next.say("two");
  await next.hears("two!");
  assert.deepEqual([echo.heard, other.heard], ["one\n", "two\n"]);
});

Deno.test(
  "where the server ends, the client does too; where there is none, it is closed",
  strict,
  async () => {
    const echo = new Echo();
    await using proxy = Proxy.listen(echo.port);
    await echo[Symbol.asyncDispose]();
    await using client = await Client.connect(proxy);
    await eventually(() => client.ended);
  },
);
