/**
 * TLS to a server. By node:tls: of Deno's own sockets those that take a client's certificate wait for Nagle's algorithm,
 * 44 ms for a call (denoland/deno#21496), and all of them trust the system's authorities beside one that is given.
 * node:tls does that too before Deno 2.7.
 */
import net from "node:net";
import tls from "node:tls";
import type { Socket } from "./socket.ts";

/** Texts; without a CA the system's are trusted. */
export interface PemTexts {
  ca?: string;
  cert?: string;
  key?: string;
}

interface Where {
  /** What the certificate is to be for. */
  hostname: string;
  address: string;
  port: number;
}

/** Why a handshake failed may be told just after "secureConnect" (before Deno 2.7), or after the first write. */
const LATE_ERROR_MS = 50;

/**
 * A socket that has stopped reading for what was not taken yet loses the end of the connection (Deno 2.9). It need not
 * stop: lib/etcd/http2.ts takes all that there is, and what may come is bounded there.
 */
const NEVER_FULL = 2 ** 30;

/**
 * Resolves with the handshake.
 * @param late gives it up: a server that is frozen takes the connection, and never shakes hands
 * @throws why there is none: to such a server nothing was sent
 */
export async function openTls(
  { hostname, address, port }: Where,
  pems: PemTexts,
  late: AbortSignal,
): Promise<Socket> {
  const tcp = net.connect({ host: address, port });
  late.addEventListener("abort", () => tcp.destroy(late.reason));
  await event(tcp, "connect");
  tcp.setNoDelay(true);
  const options = { ...pems, socket: tcp, host: hostname, ALPNProtocols: ["h2"], highWaterMark: NEVER_FULL };
  const socket = tls.connect(options);
  const opened = new TlsSocket(socket);
  try {
    await event(socket, "secureConnect");
    if (socket.alpnProtocol !== "h2") await opened.failure(LATE_ERROR_MS);
    if (socket.alpnProtocol !== "h2") throw new Error("the server does not speak HTTP/2");
    return opened;
  } catch (error) {
    opened.close();
    throw error;
  }
}

/** @throws the socket's error, where that comes first */
function event(socket: net.Socket, name: string): Promise<void> {
  return new Promise((resolve, reject) => socket.once(name, () => resolve()).once("error", reject));
}

class TlsSocket implements Socket {
  readonly #socket: tls.TLSSocket;
  #failure: Error | undefined;
  #ended = false;
  #changed = Promise.withResolvers<void>();

  constructor(socket: tls.TLSSocket) {
    this.#socket = socket;
    socket.on("error", (error) => this.#failure ??= error);
    for (const name of ["end", "close"]) socket.on(name, () => this.#ended = true);
    for (const name of ["readable", "end", "error", "close"]) socket.on(name, () => this.#wake());
  }

  async read(into: Uint8Array): Promise<number | null> {
    for (;;) {
      const bytes: Uint8Array | null = this.#socket.read(Math.min(into.length, this.#socket.readableLength));
      if (bytes) {
        into.set(bytes);
        return bytes.length;
      }
      if (this.#failure) throw this.#failure;
      if (this.#ended) return null;
      await this.#changed.promise;
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    const error = await new Promise((resolve) => this.#socket.write(bytes, resolve));
    if (!error) return bytes.length;
    await this.failure(LATE_ERROR_MS); // it tells why
    throw error;
  }

  close(): void {
    this.#socket.destroy();
  }

  /** @throws the error of the connection, should there be one by then */
  async failure(withinMs: number): Promise<void> {
    const timer = setTimeout(() => this.#wake(), withinMs);
    if (!this.#failure) await this.#changed.promise;
    clearTimeout(timer);
    if (this.#failure) throw this.#failure;
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
