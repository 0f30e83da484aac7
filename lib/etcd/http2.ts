/**
 * HTTP/2 as far as a call of grpc needs it (RFC 9113, and grpc's "gRPC over HTTP2"), on Deno's own sockets. For the calls
 * that move much: a page of 4 MB through node:http2 is an event for each 16 kB, Deno's fetch opens its window slowly and
 * waits for Nagle's algorithm, and the transaction of a batch takes grpc-js 2.1 ms of CPU, this 0.2 (docs/performance.md).
 *
 * The window is as wide as it may be: a message is taken up as it arrives, and one that is larger than it may be is given
 * up at its first bytes.
 */
import { concat } from "../core/codec.ts";
import {
  ERROR,
  FIRST_WINDOW,
  FLAG,
  FRAME,
  frame,
  FRAME_HEAD_BYTES,
  type FrameHead,
  opening,
  readHead,
  readUint32,
  SETTING,
  uint32,
} from "./frame.ts";
import { decodeHeaders, encodeHeaders } from "./hpack.ts";
import { type Answer, Call, Http2Error } from "./http2_call.ts";

const READ_BYTES = 512 * 1024;
/** Bytes received after which the window is opened again. */
const GRANT_BYTES = 2 ** 28;
const LAST_ID = 2 ** 31 - 1;

/**
 * How often it is looked whether a connection with a call under way was silent; after the second time in a row it is
 * asked whether it lives, and at the fourth it is given up. Counted, not measured: where this program itself stood still,
 * its timer comes before what waits in the socket, but only once.
 */
const PULSE_MS = 5_000;
const PULSES_TO_ASK = 2;
const PULSES_TO_DIE = 4;

export interface CallOptions {
  headers: [name: string, value: string][];
  message: Uint8Array;
  maxBytes: number;
  signal: AbortSignal;
}

export class Http2Connection implements Disposable {
  readonly #socket: Deno.Conn;
  readonly #calls = new Map<number, Call>();
  #nextId = 1;
  #closed: Error | undefined;
  /** The server takes no more calls. */
  #leaving = false;

  #buffer = new Uint8Array(READ_BYTES);
  #from = 0;
  #to = 0;
  #received = 0;

  #written: Promise<void> = Promise.resolve();
  #window = FIRST_WINDOW;
  #callWindow = FIRST_WINDOW;
  #frameBytes = 16_384;
  #wider = Promise.withResolvers<void>();

  /** Pulses since the server was heard. */
  #silence = 0;
  #pulse: ReturnType<typeof setInterval> | undefined;

  /** @param socket by TLS with "h2" agreed on (https), or plain */
  constructor(socket: Deno.Conn, readonly scheme: "http" | "https", readonly authority: string) {
    this.#socket = socket;
    this.#write(opening());
    this.#read();
  }

  /** false: the next call needs a new connection. Those under way come to their end. */
  get usable(): boolean {
    return !this.#closed && !this.#leaving && this.#nextId < LAST_ID;
  }

  /**
   * One message there, one back.
   * @throws {Http2Error} @throws {TooLargeError} the signal's reason
   */
  async call(path: string, { headers, message, maxBytes, signal }: CallOptions): Promise<Answer> {
    signal.throwIfAborted();
    if (!this.usable) throw new Http2Error(this.#closed?.message ?? "the server takes no more calls", true);
    const id = this.#nextId;
    this.#nextId += 2;
    const call = new Call(this.#callWindow, maxBytes);
    this.#calls.set(id, call);
    this.#watchPulse();
    const aborted = () => call.reject(signal.reason);
    signal.addEventListener("abort", aborted);
    try {
      this.#send(id, call, path, headers, message).catch((error) => call.reject(error));
      return await call.answer;
    } finally {
      signal.removeEventListener("abort", aborted);
      this.#calls.delete(id);
      // also where the answer came before all was sent: the server need not wait for the rest
      if (!call.over) this.#write(frame(FRAME.RST_STREAM, 0, id, uint32(ERROR.CANCEL)));
      if (!call.sent) this.#wake();
      this.#watchPulse();
      this.#closeIfLeft();
    }
  }

  /** Takes no more calls, and is closed when those under way have come to their end. */
  retire(): void {
    this.#leaving = true;
    this.#closeIfLeft();
  }

  [Symbol.dispose](): void {
    this.#close(new Http2Error("the connection was closed"));
  }

  #closeIfLeft(): void {
    if (this.#leaving && this.#calls.size === 0) this.#close(new Http2Error("the connection was left"));
  }

  /** The message in one write, as far as the server's windows reach, and the rest as they open. */
  async #send(
    id: number,
    call: Call,
    path: string,
    headers: [string, string][],
    message: Uint8Array,
  ): Promise<void> {
    const block = encodeHeaders([
      [":method", "POST"],
      [":scheme", this.scheme],
      [":authority", this.authority],
      [":path", path],
      ["te", "trailers"],
      ["content-type", "application/grpc"],
      ...headers,
    ]);
    let parts = [frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block)];
    const body = concat([[0, ...uint32(message.length)], message]);
    for (let at = 0; at < body.length;) {
      const size = Math.min(body.length - at, this.#frameBytes, this.#window, call.window);
      if (size <= 0) {
        this.#write(concat(parts));
        parts = [];
        await this.#wider.promise;
        if (this.#calls.get(id) !== call) return; // it has its end already
        continue;
      }
      this.#window -= size;
      call.window -= size;
      call.sent = at + size === body.length;
      parts.push(frame(FRAME.DATA, call.sent ? FLAG.END_STREAM : 0, id, body.subarray(at, at += size)));
    }
    await this.#write(concat(parts));
  }

  /** Writes are in order, and whole. */
  #write(bytes: Uint8Array): Promise<void> {
    const before = this.#written;
    this.#written = (async () => {
      await before;
      if (this.#closed) throw this.#closed;
      try {
        for (let at = 0; at < bytes.length;) at += await this.#socket.write(bytes.subarray(at));
      } catch (error) {
        this.#close(error as Error);
        throw this.#closed;
      }
    })();
    this.#written.catch(() => {}); // the calls have been told
    return this.#written;
  }

  async #read(): Promise<void> {
    try {
      for (;;) {
        const head = await this.#head();
        if (head.type === FRAME.DATA) await this.#data(head);
        else await this.#control(head);
      }
    } catch (error) {
      this.#close(error as Error);
    }
  }

  async #head(): Promise<FrameHead> {
    if (this.#to - this.#from < FRAME_HEAD_BYTES) await this.#fill(FRAME_HEAD_BYTES);
    const head = readHead(this.#buffer, this.#from);
    this.#from += FRAME_HEAD_BYTES;
    return head;
  }

  /** Valid until more is read. */
  async #payload(length: number): Promise<Uint8Array> {
    if (this.#to - this.#from < length) await this.#fill(length);
    return this.#buffer.subarray(this.#from, this.#from += length);
  }

  /** Reads until `size` bytes are in the buffer. */
  async #fill(size: number): Promise<void> {
    if (this.#from + size > this.#buffer.length || this.#from === this.#to) {
      this.#buffer.copyWithin(0, this.#from, this.#to);
      this.#to -= this.#from;
      this.#from = 0;
    }
    if (size > this.#buffer.length) throw new Http2Error(`a frame of ${size} bytes`);
    while (this.#to - this.#from < size) {
      const read = await this.#socket.read(this.#buffer.subarray(this.#to));
      if (read === null) throw new Http2Error("the server has ended the connection");
      this.#to += read;
      this.#silence = 0;
    }
  }

  /** Of a call that was given up only its bytes count. */
  async #data({ id, flags, length }: FrameHead): Promise<void> {
    const call = this.#calls.get(id);
    let left = length;
    let padding = 0;
    if (flags & FLAG.PADDED) {
      if (this.#from === this.#to) await this.#fill(1);
      padding = this.#buffer[this.#from++];
      left--;
    }
    while (left > 0) {
      if (this.#from === this.#to) await this.#fill(1);
      const size = Math.min(left, this.#to - this.#from);
      const wanted = Math.max(0, Math.min(size, left - padding));
      call?.add(this.#buffer.subarray(this.#from, this.#from + wanted));
      this.#from += size;
      left -= size;
    }
    if (flags & FLAG.END_STREAM) call?.end();
    this.#received += length;
    if (this.#received < GRANT_BYTES) return;
    this.#write(frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(this.#received)));
    this.#received = 0;
  }

  async #control({ id, type, flags, length }: FrameHead): Promise<void> {
    const payload = await this.#payload(length);
    switch (type) {
      case FRAME.HEADERS:
        return await this.#headers(id, flags, payload.slice());
      case FRAME.RST_STREAM:
        return this.#calls.get(id)?.reset(readUint32(payload, 0));
      case FRAME.SETTINGS:
        return flags & FLAG.ACK ? undefined : this.#settings(payload);
      case FRAME.PING:
        if (!(flags & FLAG.ACK)) this.#write(frame(FRAME.PING, FLAG.ACK, 0, payload));
        return;
      case FRAME.GOAWAY:
        return this.#goAway(readUint32(payload, 0) & 0x7fffffff, readUint32(payload, 4));
      case FRAME.WINDOW_UPDATE:
        return this.#widen(id, readUint32(payload, 0));
    }
  }

  /** The block may go on in frames that follow at once. */
  async #headers(id: number, flags: number, payload: Uint8Array): Promise<void> {
    const padding = flags & FLAG.PADDED ? payload[0] : 0;
    const begin = (flags & FLAG.PADDED ? 1 : 0) + (flags & FLAG.PRIORITY ? 5 : 0);
    let block = payload.subarray(begin, payload.length - padding);
    for (let last = (flags & FLAG.END_HEADERS) !== 0; !last;) {
      const next = await this.#head();
      if (next.type !== FRAME.CONTINUATION) throw new Http2Error("headers that do not go on");
      block = concat([block, await this.#payload(next.length)]);
      last = (next.flags & FLAG.END_HEADERS) !== 0;
    }
    const call = this.#calls.get(id);
    call?.head(decodeHeaders(block));
    if (flags & FLAG.END_STREAM) call?.end();
  }

  #settings(payload: Uint8Array): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      const id = payload[at] << 8 | payload[at + 1];
      const value = readUint32(payload, at + 2);
      if (id === SETTING.MAX_FRAME_SIZE) this.#frameBytes = value;
      if (id !== SETTING.INITIAL_WINDOW_SIZE) continue;
      for (const call of this.#calls.values()) call.window += value - this.#callWindow;
      this.#callWindow = value;
    }
    this.#write(frame(FRAME.SETTINGS, FLAG.ACK, 0, []));
    this.#wake();
  }

  #widen(id: number, bytes: number): void {
    const call = this.#calls.get(id);
    if (id === 0) this.#window += bytes;
    else if (call) call.window += bytes;
    this.#wake();
  }

  /** Those that wait for a window look again. */
  #wake(): void {
    this.#wider.resolve();
    this.#wider = Promise.withResolvers();
  }

  /** Calls above `last` were not looked at, nor will be (RFC 9113, 6.8); those up to it may have been carried out. */
  #goAway(last: number, code: number): void {
    const reason = `the server goes away (${code})`;
    for (const [id, call] of this.#calls) if (id > last) call.drop(new Http2Error(reason, true));
    if (code === ERROR.NO_ERROR) this.retire();
    else this.#close(new Http2Error(reason));
  }

  #close(error: Error): void {
    if (this.#closed) return;
    this.#closed = error instanceof Http2Error ? error : new Http2Error(error.message);
    try {
      this.#socket.close();
    } catch {
      // it is closed
    }
    for (const call of this.#calls.values()) call.reject(this.#closed);
    this.#wake();
    this.#watchPulse();
  }

  /** While calls are under way, and only then, the connection has to show that it lives. */
  #watchPulse(): void {
    const wanted = this.#calls.size > 0 && !this.#closed;
    if (!wanted) {
      clearInterval(this.#pulse);
      this.#pulse = undefined;
    } else if (this.#pulse === undefined) {
      this.#silence = 0;
      this.#pulse = setInterval(() => this.#feelPulse(), PULSE_MS);
    }
  }

  #feelPulse(): void {
    this.#silence++;
    if (this.#silence === PULSES_TO_ASK) this.#write(frame(FRAME.PING, 0, 0, new Uint8Array(8)));
    else if (this.#silence >= PULSES_TO_DIE) this.#close(new Http2Error("the connection is dead"));
  }
}
