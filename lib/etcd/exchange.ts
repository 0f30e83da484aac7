/** What goes to and fro on one stream of a connection of lib/etcd/http2.ts: grpc's messages are put together here. */
import { ERROR, readUint32 } from "./frame.ts";

/** Of a message in grpc's stream: one byte of flags, four of length. */
const MESSAGE_HEAD_BYTES = 5;

/** Why an exchange did not come to its end. */
export class Http2Error extends Error {
  /** @param unsent the server has certainly not carried it out */
  constructor(message: string, readonly unsent = false) {
    super(message);
    this.name = "Http2Error";
  }
}

/** A message is larger than it may be. */
export class TooLargeError extends Error {}

/** Headers and trailers of the server. */
export type Headers = ReadonlyMap<string, string>;

/** Memory of this size, of any content. */
export type Allocate = (size: number) => Uint8Array;

export class Exchange {
  readonly #headers = new Map<string, string>();
  readonly #messageHead = new Uint8Array(MESSAGE_HEAD_BYTES);
  readonly #ended = Promise.withResolvers<Headers>();
  #at = 0;
  #message: Uint8Array | undefined;
  #failed = false;
  #over = false;
  #dropped = false;
  /** All of the request is on its way. */
  sent = false;
  /** Bytes of it that the server was not told to send more for. */
  taken = 0;
  /** The server gets no more window. */
  paused = false;

  /**
   * @param window bytes that the server takes of it
   * @param receive gets each message, whole. What it throws is the end of the exchange
   * @param allocate where a message of this size is put together; after the end nothing is written there
   */
  constructor(
    public window: number,
    readonly maxBytes: number,
    readonly receive: (message: Uint8Array) => void,
    readonly allocate: Allocate = (size) => new Uint8Array(size),
  ) {
    this.#ended.promise.catch(() => {}); // whoever waits is told
  }

  /** @throws {Http2Error} @throws {TooLargeError} or whatever it was given up for */
  get ended(): Promise<Headers> {
    return this.#ended.promise;
  }

  /** The stream is closed on both sides: nothing is left to take back. */
  get over(): boolean {
    return this.#dropped || this.#over && this.sent;
  }

  /** Bytes that are here of a message that is not whole. */
  get unfinished(): number {
    return this.#at;
  }

  /** After the end it changes nothing. */
  fail(error: unknown): void {
    this.#failed = true;
    this.#ended.reject(error);
  }

  head(headers: Headers): void {
    for (const [name, value] of headers) this.#headers.set(name, value);
  }

  /** What a proxy says in the server's place is no message. */
  add(data: Uint8Array): void {
    if (this.#headers.get(":status") !== "200") return;
    try {
      for (let at = 0; at < data.length && !this.#failed;) at += this.#take(data, at);
    } catch (error) {
      this.fail(error);
    }
  }

  /** The server has said all. */
  end(): void {
    this.#over = true;
    if (this.#at > 0) this.fail(new Http2Error("the answer ended before its end"));
    this.#ended.resolve(this.#headers);
  }

  /**
   * The server has given the stream up; after its answer that means only that it reads no further. REFUSED_STREAM says
   * that nothing was done (RFC 9113, 8.7), and of a server that had begun to answer it is not believed.
   */
  reset(code: number): void {
    const unsent = code === ERROR.REFUSED_STREAM && this.#headers.size === 0;
    this.drop(new Http2Error(`the server has reset the call (${code})`, unsent));
  }

  drop(error: Http2Error): void {
    this.#dropped = true;
    this.fail(error);
  }

  /** The head of a message, or what belongs to it: how many bytes that was. */
  #take(data: Uint8Array, at: number): number {
    if (!this.#message) {
      const head = data.subarray(at, at + MESSAGE_HEAD_BYTES - this.#at);
      this.#messageHead.set(head, this.#at);
      this.#at += head.length;
      if (this.#at === MESSAGE_HEAD_BYTES) this.#begin();
      return head.length;
    }
    const missing = this.#message.length + MESSAGE_HEAD_BYTES - this.#at;
    const part = data.subarray(at, at + missing);
    this.#message.set(part, this.#at - MESSAGE_HEAD_BYTES);
    this.#at += part.length;
    if (part.length === missing) this.#finish(this.#message);
    return part.length;
  }

  #begin(): void {
    const length = readUint32(this.#messageHead, 1);
    if (this.#messageHead[0] !== 0) throw new Http2Error("an answer that is compressed");
    if (length > this.maxBytes) {
      throw new TooLargeError(`an answer of ${length} bytes, the limit is ${this.maxBytes}`);
    }
    this.#message = this.allocate(length);
    if (length === 0) this.#finish(this.#message);
  }

  #finish(message: Uint8Array): void {
    this.#at = 0;
    this.#message = undefined;
    this.receive(message);
  }
}
