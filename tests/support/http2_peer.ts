/** A server of HTTP/2 that does, frame by frame, what a test tells it: what no real server does on demand. */
import { concat } from "../../lib/core/codec.ts";
import { FLAG, FRAME, frame, FRAME_HEAD_BYTES, readHead, uint32 } from "../../lib/etcd/frame.ts";
import { encodeHeaders } from "../../lib/etcd/hpack.ts";
import { Http2Connection } from "../../lib/etcd/http2.ts";

export interface Frame {
  type: number;
  flags: number;
  id: number;
  payload: Uint8Array;
}

const PREFACE_BYTES = 24;

export class Peer implements Disposable {
  #bytes: Uint8Array = new Uint8Array();

  private constructor(readonly connection: Http2Connection, readonly socket: Deno.TcpConn) {}

  /**
   * Both ends, with their openings. `byByte`: the client reads one byte at a time; `first`: what the peer says in the
   * place of its opening, with which the test goes on.
   */
  static async connect(
    { byByte = false, windowBytes, first }: { byByte?: boolean; windowBytes?: number; first?: Uint8Array } =
      {},
  ): Promise<Peer> {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const [client, socket] = await Promise.all([
      Deno.connect({ port: listener.addr.port }),
      listener.accept(),
    ]);
    socket.setNoDelay();
    const side = byByte ? slowReader(client) : client;
    const peer = new Peer(new Http2Connection(side, "http", "peer", windowBytes), socket);
    await peer.#take(PREFACE_BYTES);
    await peer.next(FRAME.SETTINGS);
    await peer.next(FRAME.WINDOW_UPDATE);
    await peer.write(first ?? frame(FRAME.SETTINGS, 0, 0, []));
    if (!first) await peer.next(FRAME.SETTINGS);
    return peer;
  }

  [Symbol.dispose](): void {
    this.connection[Symbol.dispose]();
    this.end();
  }

  end(): void {
    try {
      this.socket.close();
    } catch {
      // the test has closed it
    }
  }

  /** The next frame; null: the client has closed the connection. */
  async read(): Promise<Frame | null> {
    const head = await this.#take(FRAME_HEAD_BYTES);
    if (!head) return null;
    const { length, ...rest } = readHead(head, 0);
    return { ...rest, payload: (await this.#take(length))! };
  }

  /** The next frame, which has to be of this type. */
  async next(type: number): Promise<Frame> {
    const found = await this.read();
    if (found?.type !== type) throw new Error(`wanted a frame of type ${type}, got ${found?.type}`);
    return found;
  }

  /** A whole request: its stream and its message, with the five bytes before it. */
  async request(): Promise<{ id: number; body: Uint8Array }> {
    const { id } = await this.next(FRAME.HEADERS);
    let body: Uint8Array = new Uint8Array();
    for (;;) {
      const { payload, flags } = await this.next(FRAME.DATA);
      body = concat([body, payload]);
      if (flags & FLAG.END_STREAM) return { id, body };
    }
  }

  async write(...frames: Uint8Array[]): Promise<void> {
    const bytes = concat(frames);
    for (let at = 0; at < bytes.length;) at += await this.socket.write(bytes.subarray(at));
  }

  async #take(size: number): Promise<Uint8Array | null> {
    while (this.#bytes.length < size) {
      const chunk = new Uint8Array(65_536);
      const read = await this.socket.read(chunk).catch(() => null); // it may be reset
      if (read === null) return null;
      this.#bytes = concat([this.#bytes, chunk.subarray(0, read)]);
    }
    const taken = this.#bytes.subarray(0, size);
    this.#bytes = this.#bytes.subarray(size);
    return taken;
  }
}

function slowReader(socket: Deno.TcpConn): Deno.Conn {
  const read = socket.read.bind(socket);
  return Object.assign(socket, { read: (into: Uint8Array) => read(into.subarray(0, 1)) });
}

export const HEAD = encodeHeaders([[":status", "200"], ["content-type", "application/grpc"]]);
export const TRAILERS = encodeHeaders([["grpc-status", "0"]]);

/** A message of grpc. */
export function message(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  return concat([[0, ...uint32(bytes.length)], bytes]);
}

export function headers(id: number, block = HEAD, flags: number = FLAG.END_HEADERS): Uint8Array {
  return frame(FRAME.HEADERS, flags, id, block);
}

export function data(id: number, payload: Uint8Array, flags = 0): Uint8Array {
  return frame(FRAME.DATA, flags, id, payload);
}

export function trailers(id: number, block = TRAILERS): Uint8Array {
  return headers(id, block, FLAG.END_HEADERS | FLAG.END_STREAM);
}

export function answer(id: number, text: string): Uint8Array {
  return concat([headers(id), data(id, message(text)), trailers(id)]);
}

export function goAway(last: number, code: number): Uint8Array {
  return frame(FRAME.GOAWAY, 0, 0, [...uint32(last), ...uint32(code)]);
}

export function reset(id: number, code: number): Uint8Array {
  return frame(FRAME.RST_STREAM, 0, id, uint32(code));
}

export function widen(id: number, bytes: number): Uint8Array {
  return frame(FRAME.WINDOW_UPDATE, 0, id, uint32(bytes));
}

export function settings(id: number, value: number): Uint8Array {
  return frame(FRAME.SETTINGS, 0, 0, [0, id, ...uint32(value)]);
}
