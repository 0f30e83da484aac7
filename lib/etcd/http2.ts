/**
 * HTTP/2 as far as a call of grpc needs it (RFC 9113, and grpc's "gRPC over HTTP2"), on Deno's own sockets. For the calls
 * that move much: a page of 4 MB through node:http2 is an event for each 16 kB, Deno's fetch opens its window slowly and
 * waits for Nagle's algorithm, and the transaction of a batch takes grpc-js 2.1 ms of CPU, this 0.2 (docs/performance.md).
 *
 * The window is as wide as it may be: a message is taken up as it arrives, and one that is larger than it may be is given
 * up at its first bytes.
 */
import { decodeHeaders, encodeHeaders } from "./hpack.ts";

const PREFACE = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const HEAD_BYTES = 9;
/** Of a message in grpc's stream: one byte of flags, four of length. */
const MESSAGE_HEAD_BYTES = 5;
const READ_BYTES = 512 * 1024;
/** What a sender may assume before it is told. */
const FIRST_WINDOW = 65_535;
const WIDEST_WINDOW = 2 ** 31 - 1;
/** Bytes received after which the window is opened again. */
const GRANT_BYTES = 2 ** 28;
const LAST_ID = 2 ** 31 - 1;
/** A connection with a call under way that has been silent for this long is asked whether it is alive. */
const PING_AFTER_MS = 10_000;
const PING_TIMEOUT_MS = 5_000;

const FRAME = {
  DATA: 0,
  HEADERS: 1,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;
const END_STREAM = 1;
const ACK = 1;
const END_HEADERS = 4;
const PADDED = 8;
const PRIORITY = 0x20;
const SETTING = { HEADER_TABLE_SIZE: 1, ENABLE_PUSH: 2, INITIAL_WINDOW_SIZE: 4, MAX_FRAME_SIZE: 5 } as const;
const NO_ERROR = 0;
const REFUSED_STREAM = 7;
const CANCEL = 8;

/** Why a call has no answer. */
export class Http2Error extends Error {
  /** @param unsent the server has certainly not carried it out */
  constructor(message: string, readonly unsent = false) {
    super(message);
    this.name = "Http2Error";
  }
}

/** The answer is larger than it may be. */
export class TooLargeError extends Error {}

export interface Answer {
  /** The headers and the trailers. */
  headers: Map<string, string>;
  /** Absent where the server answers with a status alone. */
  message: Uint8Array | undefined;
}

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

  #spoke = performance.now();
  #pulse: ReturnType<typeof setInterval> | undefined;

  /** @param socket by TLS with "h2" agreed on (https), or plain */
  constructor(socket: Deno.Conn, readonly scheme: "http" | "https", readonly authority: string) {
    this.#socket = socket;
    const settings = [
      [SETTING.HEADER_TABLE_SIZE, 0],
      [SETTING.ENABLE_PUSH, 0],
      [SETTING.INITIAL_WINDOW_SIZE, WIDEST_WINDOW],
    ].flatMap(([id, value]) => [0, id, ...uint32(value)]);
    this.#write(concat([
      PREFACE,
      frame(FRAME.SETTINGS, 0, 0, settings),
      frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(WIDEST_WINDOW - FIRST_WINDOW)),
    ]));
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
    if (!this.usable) throw this.#closed ?? new Http2Error("the server takes no more calls", true);
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
      if (!call.ended && !this.#closed) this.#write(frame(FRAME.RST_STREAM, 0, id, uint32(CANCEL)));
      this.#watchPulse();
    }
  }

  [Symbol.dispose](): void {
    this.#close(new Http2Error("the connection was closed"));
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
    let parts = [frame(FRAME.HEADERS, END_HEADERS, id, block)];
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
      const flags = at + size === body.length ? END_STREAM : 0;
      parts.push(frame(FRAME.DATA, flags, id, body.subarray(at, at += size)));
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
        if (this.#to - this.#from < HEAD_BYTES) await this.#fill(HEAD_BYTES);
        const head = this.#buffer.subarray(this.#from, this.#from += HEAD_BYTES);
        const length = head[0] << 16 | head[1] << 8 | head[2];
        const [, , , type, flags] = head;
        const id = readUint32(head, 5) & 0x7fffffff;
        if (type === FRAME.DATA) await this.#data(id, flags, length);
        else await this.#control(id, type, flags, length);
      }
    } catch (error) {
      this.#close(error as Error);
    }
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
      this.#spoke = performance.now();
    }
  }

  /** Of a call that was given up only its bytes count. */
  async #data(id: number, flags: number, length: number): Promise<void> {
    const call = this.#calls.get(id);
    let left = length;
    let padding = 0;
    if (flags & PADDED) {
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
    if (flags & END_STREAM) call?.end();
    this.#received += length;
    if (this.#received < GRANT_BYTES) return;
    this.#write(frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(this.#received)));
    this.#received = 0;
  }

  async #control(id: number, type: number, flags: number, length: number): Promise<void> {
    if (this.#to - this.#from < length) await this.#fill(length);
    const payload = this.#buffer.subarray(this.#from, this.#from += length);
    switch (type) {
      case FRAME.HEADERS:
        return await this.#headers(id, flags, payload.slice());
      case FRAME.RST_STREAM:
        return this.#calls.get(id)?.reset(readUint32(payload, 0));
      case FRAME.SETTINGS:
        return flags & ACK ? undefined : this.#settings(payload);
      case FRAME.PING:
        if (!(flags & ACK)) this.#write(frame(FRAME.PING, ACK, 0, payload));
        return;
      case FRAME.GOAWAY:
        return this.#goAway(readUint32(payload, 0) & 0x7fffffff, readUint32(payload, 4));
      case FRAME.WINDOW_UPDATE:
        return this.#widen(id, readUint32(payload, 0));
    }
  }

  /** The block may go on in frames that follow at once. */
  async #headers(id: number, flags: number, payload: Uint8Array): Promise<void> {
    const padding = flags & PADDED ? payload[0] : 0;
    const begin = (flags & PADDED ? 1 : 0) + (flags & PRIORITY ? 5 : 0);
    let block = payload.subarray(begin, payload.length - padding);
    for (let last = (flags & END_HEADERS) !== 0; !last;) {
      if (this.#to - this.#from < HEAD_BYTES) await this.#fill(HEAD_BYTES);
      const head = this.#buffer.slice(this.#from, this.#from += HEAD_BYTES);
      const length = head[0] << 16 | head[1] << 8 | head[2];
      if (head[3] !== FRAME.CONTINUATION) throw new Http2Error("headers that do not go on");
      if (this.#to - this.#from < length) await this.#fill(length);
      block = concat([block, this.#buffer.subarray(this.#from, this.#from += length)]);
      last = (head[4] & END_HEADERS) !== 0;
    }
    const call = this.#calls.get(id);
    call?.head(decodeHeaders(block));
    if (flags & END_STREAM) call?.end();
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
    this.#write(frame(FRAME.SETTINGS, ACK, 0, []));
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

  /** Calls above `last` were not looked at. */
  #goAway(last: number, code: number): void {
    this.#leaving = true;
    const error = new Http2Error(`the server goes away (${code})`, true);
    for (const [id, call] of this.#calls) if (id > last) call.reject(error);
    if (code !== NO_ERROR) this.#close(new Http2Error(`the server goes away (${code})`));
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
      this.#spoke = performance.now();
      this.#pulse = setInterval(() => this.#feelPulse(), PING_TIMEOUT_MS);
    }
  }

  #feelPulse(): void {
    const silent = performance.now() - this.#spoke;
    if (silent > PING_AFTER_MS + PING_TIMEOUT_MS) this.#close(new Http2Error("the connection is dead"));
    else if (silent > PING_AFTER_MS) this.#write(frame(FRAME.PING, 0, 0, new Uint8Array(8)));
  }
}

/** One call under way: puts its answer together. */
class Call {
  readonly headers = new Map<string, string>();
  readonly #answer = Promise.withResolvers<Answer>();
  readonly #messageHead = new Uint8Array(MESSAGE_HEAD_BYTES);
  #at = 0;
  #message: Uint8Array | undefined;
  ended = false;

  /** @param window bytes that the server takes of it */
  constructor(public window: number, readonly maxBytes: number) {}

  get answer(): Promise<Answer> {
    return this.#answer.promise;
  }

  reject(error: unknown): void {
    this.#answer.reject(error);
  }

  head(headers: Map<string, string>): void {
    for (const [name, value] of headers) this.headers.set(name, value);
  }

  add(data: Uint8Array): void {
    let rest = data;
    if (this.#at < MESSAGE_HEAD_BYTES) {
      const head = data.subarray(0, MESSAGE_HEAD_BYTES - this.#at);
      this.#messageHead.set(head, this.#at);
      this.#at += head.length;
      rest = data.subarray(head.length);
      if (this.#at === MESSAGE_HEAD_BYTES) this.#begin();
    }
    if (rest.length === 0 || !this.#message) return;
    if (this.#at - MESSAGE_HEAD_BYTES + rest.length > this.#message.length) {
      return this.reject(new Http2Error("more than one message"));
    }
    this.#message.set(rest, this.#at - MESSAGE_HEAD_BYTES);
    this.#at += rest.length;
  }

  end(): void {
    this.ended = true;
    const whole = this.#message && this.#at === MESSAGE_HEAD_BYTES + this.#message.length;
    if (this.#at > 0 && !whole) this.reject(new Http2Error("the answer ended before its end"));
    this.#answer.resolve({ headers: this.headers, message: this.#message });
  }

  /** After its end it means that the server does not read on. */
  reset(code: number): void {
    if (this.ended) return;
    this.ended = true;
    this.reject(new Http2Error(`the server has reset the call (${code})`, code === REFUSED_STREAM));
  }

  #begin(): void {
    const length = readUint32(this.#messageHead, 1);
    if (this.#messageHead[0] !== 0) return this.reject(new Http2Error("an answer that is compressed"));
    if (length > this.maxBytes) {
      return this.reject(new TooLargeError(`an answer of ${length} bytes, the limit is ${this.maxBytes}`));
    }
    this.#message = new Uint8Array(length);
  }
}

function frame(type: number, flags: number, id: number, payload: ArrayLike<number>): Uint8Array {
  const { length } = payload;
  const out = new Uint8Array(HEAD_BYTES + length);
  out.set([length >> 16, length >> 8 & 255, length & 255, type, flags, ...uint32(id)]);
  out.set(payload, HEAD_BYTES);
  return out;
}

function uint32(value: number): number[] {
  return [value >>> 24, value >>> 16 & 255, value >>> 8 & 255, value & 255];
}

function readUint32(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 24 | bytes[at + 1] << 16 | bytes[at + 2] << 8 | bytes[at + 3]) >>> 0;
}

function concat(parts: ArrayLike<number>[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
