/**
 * A TCP proxy with faults: one listener, one upstream, which may be pointed elsewhere.
 *
 * ```ts
 * await using proxy = Proxy.listen(etcdPort);
 * proxy.hold("down");          // requests arrive, answers wait
 * proxy.release("down");
 * await proxy.loseAnswer();    // the next request arrives, its answer is lost, the connection is cut
 * ```
 *
 * Faults hold for the connections that there are and for new ones, until they are healed.
 */

/** `up`: from the client to the server; `down`: from the server to the client. */
export type Direction = "up" | "down";

const BOTH: Direction[] = ["up", "down"];
/** What a direction keeps before it stops reading, as a network would. */
const ROOM_BYTES = 1 << 20;
/** A request that was held is read by its server before that learns that the client is gone. */
const LINGER_MS = 300;

export interface Slowness {
  /** Added to everything that passes, in milliseconds. */
  delayMs?: number;
  bytesPerSecond?: number;
}

/** What stands in the way of one direction. */
interface Lane {
  /** Set while bytes are held; resolves when they are released. */
  held?: PromiseWithResolvers<void>;
  swallowing?: PromiseWithResolvers<void>;
  /** So many chunks still pass before the lane is held. */
  countdown?: { left: number; reached: PromiseWithResolvers<void> };
  slow?: Slowness;
}

export class Proxy implements AsyncDisposable {
  readonly port: number;
  /** Bytes passed on so far. */
  readonly passed: Record<Direction, number> = { up: 0, down: 0 };
  /** Bytes accepted and not passed on yet. */
  readonly waiting: Record<Direction, number> = { up: 0, down: 0 };
  readonly #listener: Deno.TcpListener;
  readonly #lanes: Record<Direction, Lane> = { up: {}, down: {} };
  readonly #links = new Set<Link>();
  readonly #accepting: Promise<void>;
  #upstream: number;
  #refusing = false;

  private constructor(upstream: number) {
    this.#upstream = upstream;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = this.#listener.addr.port;
    this.#accepting = this.#accept();
  }

  /** Listens on a free loopback port for a server on another one. */
  static listen(upstreamPort: number): Proxy {
    return new Proxy(upstreamPort);
  }

  /** How many connections there are. */
  get connections(): number {
    return this.#links.size;
  }

  /** The ports from which the server sees the connections come. */
  get upstreamPorts(): number[] {
    return [...this.#links].map(({ port }) => port);
  }

  /** New connections go to another server; those that there are stay where they are. */
  pointTo(upstreamPort: number): void {
    this.#upstream = upstreamPort;
  }

  /** Bytes are accepted and not passed on, the end of a connection neither. */
  hold(...directions: Direction[]): void {
    for (const lane of this.#some(directions)) lane.held ??= Promise.withResolvers();
  }

  /** Holds one direction once so many chunks (about: messages) have passed; resolves when the next one waits. */
  holdAfter(direction: Direction, chunks: number): Promise<void> {
    const reached = Promise.withResolvers<void>();
    this.#lanes[direction].countdown = { left: chunks, reached };
    return reached.promise;
  }

  /** What was held goes on its way, in order, also where its sender is gone. */
  release(...directions: Direction[]): void {
    for (const lane of this.#some(directions)) {
      lane.held?.resolve();
      lane.held = undefined;
      lane.countdown = undefined;
    }
  }

  /** Bytes are thrown away from now on. Resolves when the first were; heal it by `cut`, as the stream is spoilt. */
  swallow(direction: Direction): Promise<void> {
    return (this.#lanes[direction].swallowing ??= Promise.withResolvers()).promise;
  }

  /** The next request arrives, its answer is lost, and all connections are cut. Resolves when that has happened. */
  async loseAnswer(): Promise<void> {
    await this.swallow("down");
    this.cut();
  }

  /** Closes all connections, in both directions; what was held is lost. New ones are accepted. */
  cut(): void {
    for (const link of this.#links) link.close();
    this.#links.clear();
    for (const lane of Object.values(this.#lanes)) {
      lane.swallowing?.resolve();
      lane.swallowing = undefined;
    }
  }

  slow(slowness: Slowness, ...directions: Direction[]): void {
    for (const lane of this.#some(directions)) lane.slow = slowness;
  }

  /** New connections are closed as soon as they are made. */
  refuse(): void {
    this.#refusing = true;
  }

  /** Ends every fault; connections that were spoilt are cut. */
  heal(): void {
    this.#refusing = false;
    for (const lane of Object.values(this.#lanes)) lane.slow = undefined;
    if (Object.values(this.#lanes).some((lane) => lane.swallowing)) this.cut();
    this.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    const links = [...this.#links];
    this.cut();
    this.release();
    await this.#accepting;
    await Promise.all(links.map(({ ended }) => ended));
  }

  #some(directions: Direction[]): Lane[] {
    return (directions.length === 0 ? BOTH : directions).map((direction) => this.#lanes[direction]);
  }

  async #accept(): Promise<void> {
    const linking = new Set<Promise<void>>();
    for (;;) {
      const client = await this.#listener.accept().catch(() => null);
      if (!client) break;
      if (this.#refusing) client.close();
      else {
        const done = this.#link(client);
        linking.add(done);
        done.finally(() => linking.delete(done));
      }
    }
    await Promise.all(linking);
  }

  async #link(client: Deno.TcpConn): Promise<void> {
    const server = await Deno.connect({ hostname: "127.0.0.1", port: this.#upstream }).catch(() => null);
    if (!server) return client.close();
    for (const conn of [client, server]) conn.setNoDelay();
    const link = new Link(client, server, this.#lanes, this.passed, this.waiting);
    this.#links.add(link);
    await link.ended;
    this.#links.delete(link);
  }
}

/** One connection through the proxy. */
class Link {
  /** The server sees this port. */
  readonly port: number;
  readonly ended: Promise<void>;
  #closed = false;

  constructor(
    readonly client: Deno.TcpConn,
    readonly server: Deno.TcpConn,
    readonly lanes: Record<Direction, Lane>,
    readonly passed: Record<Direction, number>,
    readonly waiting: Record<Direction, number>,
  ) {
    this.port = (server.localAddr as Deno.NetAddr).port;
    this.ended = Promise.all([
      this.#pump("up", client, server).finally(() => server.closeWrite().catch(() => {})),
      this.#pump("down", server, client).finally(() => this.close()),
    ]).then(() => this.close());
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.client.close();
    this.server.close();
  }

  /** Reader and writer side by side, so that a held direction still accepts. */
  async #pump(direction: Direction, from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const queue = new Queue();
    await Promise.all([this.#read(direction, from, queue), this.#write(direction, queue, to)]);
  }

  async #read(direction: Direction, from: Deno.TcpConn, queue: Queue): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    for (;;) {
      const count = await from.read(buffer).catch(() => null);
      if (count === null) break;
      this.waiting[direction] += count;
      await queue.push(buffer.slice(0, count));
    }
    queue.end();
  }

  async #write(direction: Direction, queue: Queue, to: Deno.TcpConn): Promise<void> {
    const lane = this.lanes[direction];
    let linger = 0;
    for (;;) {
      const bytes = await queue.shift();
      const count = bytes?.length ?? 0;
      if (lane.countdown && bytes !== null && lane.countdown.left-- <= 0) {
        lane.held ??= Promise.withResolvers();
        lane.countdown.reached.resolve();
      }
      if (lane.slow) await this.#dawdle(lane.slow, bytes?.length ?? 0);
      for (; lane.held && !this.#closed; linger = LINGER_MS) await lane.held.promise;
      this.waiting[direction] -= count;
      if (bytes === null || this.#closed) break;
      if (lane.swallowing) {
        lane.swallowing.resolve();
        continue;
      }
      await this.#send(bytes, to);
      this.passed[direction] += bytes.length;
    }
    if (linger && !this.#closed) await pause(linger);
  }

  async #dawdle({ delayMs = 0, bytesPerSecond = Infinity }: Slowness, bytes: number): Promise<void> {
    const ms = delayMs + 1_000 * bytes / bytesPerSecond;
    for (const end = performance.now() + ms; performance.now() < end && !this.#closed;) {
      await pause(Math.min(50, end - performance.now()));
    }
  }

  /** A receiver that is gone takes nothing more; the reader goes on, to see the sender's end. */
  async #send(bytes: Uint8Array, to: Deno.TcpConn): Promise<void> {
    try {
      for (let at = 0; at < bytes.length;) at += await to.write(bytes.subarray(at));
    } catch {
      // the other direction ends the connection
    }
  }
}

/** Chunks between a reader and a writer; null is the end. */
class Queue {
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  #ended = false;
  #wakeReader = () => {};
  #wakeWriter = () => {};

  async push(chunk: Uint8Array): Promise<void> {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    this.#wakeWriter();
    while (this.#bytes > ROOM_BYTES) await new Promise<void>((resolve) => this.#wakeReader = resolve);
  }

  end(): void {
    this.#ended = true;
    this.#wakeWriter();
  }

  async shift(): Promise<Uint8Array | null> {
    while (this.#chunks.length === 0) {
      if (this.#ended) return null;
      await new Promise<void>((resolve) => this.#wakeWriter = resolve);
    }
    const chunk = this.#chunks.shift()!;
    this.#bytes -= chunk.length;
    this.#wakeReader();
    return chunk;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
