/**
 * HTTP/2 as far as grpc needs it (RFC 9113, and grpc's "gRPC over HTTP2"), on Deno's own sockets. Through grpc-js and
 * node:http2 a page of 4 MB is an event for each 16 kB, and the transaction of a batch takes 2.1 ms of CPU, this 0.2
 * (docs/performance.md); Deno's fetch opens its window slowly and waits for Nagle's algorithm.
 */
import { concat } from "../core/codec.ts";
import { type Allocate, Exchange, type Headers, Http2Error } from "./exchange.ts";
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
  WIDEST_WINDOW,
} from "./frame.ts";
import { decodeHeaders, encodeHeaders } from "./hpack.ts";
import type { Socket } from "./socket.ts";

const READ_BYTES = 512 * 1024;
/** Bytes received after which the connection's window is opened again. */
const GRANT_BYTES = 2 ** 28;
const LAST_ID = 2 ** 31 - 1;

/**
 * How often it is looked whether a connection with a call under way was silent; after the second time in a row it is
 * asked whether it lives, and at the fourth it is given up. Counted, not measured: where this program itself stood still,
 * its timer comes before what waits in the socket, but only once. etcd does not bear more pings than one in 5 s.
 */
const PULSE_MS = 5_000;
const PULSES_TO_ASK = 2;
const PULSES_TO_DIE = 4;

export interface Request {
  path: string;
  headers: [name: string, value: string][];
  message: Uint8Array;
  /** A larger answer is given up at its first bytes. */
  maxBytes: number;
  allocate?: Allocate;
}

export interface Answer {
  headers: Headers;
  /** Absent where the server answers with a status alone. */
  message: Uint8Array | undefined;
}

/** One that is open for messages both ways. */
export interface OpenStream {
  /** The server's headers and trailers. @throws {Http2Error} @throws {TooLargeError} */
  ended: Promise<Headers>;
  /** Bytes that are here of a message that is not whole. */
  unfinished(): number;
  send(message: Uint8Array): void;
  /** The server sends no more than what it was let, one window, until `resume`. */
  pause(): void;
  resume(): void;
  /** Nothing is received after it. */
  cancel(): void;
}

export class Http2Connection implements Disposable {
  readonly #socket: Socket;
  readonly #calls = new Map<number, Exchange>();
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
  readonly #ready = Promise.withResolvers<void>();

  /** Pulses since the server was heard. */
  #silence = 0;
  #pulse: ReturnType<typeof setInterval> | undefined;

  /**
   * @param socket by TLS with "h2" agreed on (https), or plain
   * @param windowBytes what a server may send of one call before it has to wait: a call's answer is one message, and is
   *   taken up as it arrives; of a stream it is what may come after `pause`
   */
  constructor(
    socket: Socket,
    readonly scheme: "http" | "https",
    readonly authority: string,
    readonly windowBytes = WIDEST_WINDOW,
  ) {
    this.#socket = socket;
    this.#ready.promise.catch(() => {}); // whoever waits is told
    this.#write(opening(windowBytes));
    this.#read();
  }

  /** The server has spoken. @throws {Http2Error} the connection has ended before that: nothing was sent on it */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** false: the next call needs a new connection. Those under way come to their end. */
  get usable(): boolean {
    return !this.#closed && !this.#leaving && this.#nextId < LAST_ID;
  }

  /**
   * One message there, one back.
   * @throws {Http2Error} @throws {TooLargeError} the signal's reason
   */
  async call(request: Request, signal: AbortSignal): Promise<Answer> {
    signal.throwIfAborted();
    let answer: Uint8Array | undefined;
    const call = new Exchange(this.#callWindow, request.maxBytes, (message) => {
      if (answer) throw new Http2Error("more than one message");
      answer = message;
    }, request.allocate);
    const aborted = () => call.fail(signal.reason);
    const id = this.#begin(call);
    signal.addEventListener("abort", aborted);
    try {
      this.#open(id, call, request, true);
      return { headers: await call.ended, message: answer };
    } finally {
      signal.removeEventListener("abort", aborted);
      this.#end(id, call);
    }
  }

  /**
   * Opens a stream with its first message. `receive` is called with each message as it arrives; what it throws ends the
   * stream.
   */
  stream(request: Request, receive: (message: Uint8Array) => void): OpenStream {
    const stream = new Exchange(this.#callWindow, request.maxBytes, receive);
    const id = this.#begin(stream);
    let sent = this.#open(id, stream, request, false);
    const ended = stream.ended.finally(() => this.#end(id, stream));
    ended.catch(() => {}); // whoever waits is told
    return {
      ended,
      unfinished: () => stream.unfinished,
      send: (message) => {
        sent = sent.then(() => this.#send(id, stream, message, false, []));
      },
      pause: () => {
        stream.paused = true;
      },
      resume: () => {
        stream.paused = false;
        this.#grant(id, stream);
      },
      cancel: () => {
        stream.fail(new Http2Error("the stream was canceled"));
        this.#end(id, stream);
      },
    };
  }

  /** Takes no more calls, and is closed when those under way have come to their end. */
  retire(): void {
    this.#leaving = true;
    this.#closeIfLeft();
  }

  [Symbol.dispose](): void {
    this.#close(new Http2Error("the connection was closed"));
  }

  #begin(call: Exchange): number {
    if (!this.usable) throw new Http2Error(this.#closed?.message ?? "the server takes no more calls", true);
    const id = this.#nextId;
    this.#nextId += 2;
    this.#calls.set(id, call);
    this.#watchPulse();
    return id;
  }

  /** Once: after it the call is unknown. */
  #end(id: number, call: Exchange): void {
    if (!this.#calls.delete(id)) return;
    // also where the answer came before all was sent: the server need not wait for the rest
    if (!call.over) this.#write(frame(FRAME.RST_STREAM, 0, id, uint32(ERROR.CANCEL)));
    if (!call.sent) this.#wake();
    this.#watchPulse();
    this.#closeIfLeft();
  }

  #closeIfLeft(): void {
    if (this.#leaving && this.#calls.size === 0) this.#close(new Http2Error("the connection was left"));
  }

  #open(id: number, call: Exchange, { path, headers, message }: Request, last: boolean): Promise<void> {
    const block = encodeHeaders([
      [":method", "POST"],
      [":scheme", this.scheme],
      [":authority", this.authority],
      [":path", path],
      ["te", "trailers"],
      ["content-type", "application/grpc"],
      ...headers,
    ]);
    return this.#send(id, call, message, last, [frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block)]);
  }

  /**
   * The message in one write, as far as the server's windows reach, and the rest as they open. Never throws: the call is
   * told.
   * @param last no message comes after it
   * @param parts frames that go before it
   */
  async #send(
    id: number,
    call: Exchange,
    message: Uint8Array,
    last: boolean,
    parts: Uint8Array[],
  ): Promise<void> {
    const body = concat([[0, ...uint32(message.length)], message]);
    for (let at = 0; at < body.length;) {
      const size = Math.min(body.length - at, this.#frameBytes, this.#window, call.window);
      if (size <= 0) {
        this.#write(concat(parts));
        parts = [];
        await this.#wider.promise;
      }
      if (this.#calls.get(id) !== call) return; // it has its end already
      if (size <= 0) continue;
      this.#window -= size;
      call.window -= size;
      call.sent = last && at + size === body.length;
      parts.push(frame(FRAME.DATA, call.sent ? FLAG.END_STREAM : 0, id, body.subarray(at, at += size)));
    }
    await this.#write(concat(parts));
  }

  /** Writes are in order, and whole. Where one fails the calls are told, and this is not. */
  #write(bytes: Uint8Array): Promise<void> {
    return this.#written = this.#writeAfter(this.#written, bytes);
  }

  async #writeAfter(before: Promise<void>, bytes: Uint8Array): Promise<void> {
    await before;
    if (this.#closed) return;
    try {
      for (let at = 0; at < bytes.length;) at += await this.#socket.write(bytes.subarray(at));
    } catch (error) {
      this.#close(error as Error);
    }
  }

  async #read(): Promise<void> {
    try {
      for (let first = true;; first = false) {
        const head = await this.#head();
        if (first && head.type !== FRAME.SETTINGS) throw new Http2Error("the server does not speak HTTP/2");
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
      if (length === 0) throw new Http2Error("padding without its length");
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
    this.#received += length;
    if (this.#received >= GRANT_BYTES) {
      this.#write(frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(this.#received)));
      this.#received = 0;
    }
    if (!call) return;
    call.taken += length;
    if (flags & FLAG.END_STREAM) call.end();
    else this.#grant(id, call);
  }

  /** Half a window at a time, so that the server never has to wait for it. */
  #grant(id: number, call: Exchange): void {
    if (call.paused || call.taken < this.windowBytes / 2 || this.#calls.get(id) !== call) return;
    this.#write(frame(FRAME.WINDOW_UPDATE, 0, id, uint32(call.taken)));
    call.taken = 0;
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
    this.#ready.resolve();
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
    for (const call of this.#calls.values()) call.fail(this.#closed);
    this.#ready.reject(this.#closed);
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
