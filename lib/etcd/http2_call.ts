/** One call on a connection of lib/etcd/http2.ts: puts its answer together. */
import { ERROR, readUint32 } from "./frame.ts";

/** Of a message in grpc's stream: one byte of flags, four of length. */
const MESSAGE_HEAD_BYTES = 5;

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

export class Call {
  readonly headers = new Map<string, string>();
  readonly #answer = Promise.withResolvers<Answer>();
  readonly #messageHead = new Uint8Array(MESSAGE_HEAD_BYTES);
  #at = 0;
  #message: Uint8Array | undefined;
  #ended = false;
  #dropped = false;
  /** All of the request is on its way. */
  sent = false;

  /** @param window bytes that the server takes of it */
  constructor(public window: number, readonly maxBytes: number) {}

  get answer(): Promise<Answer> {
    return this.#answer.promise;
  }

  /** The stream is closed on both sides: nothing is left to take back. */
  get over(): boolean {
    return this.#dropped || this.#ended && this.sent;
  }

  /** After the answer it changes nothing. */
  reject(error: unknown): void {
    this.#answer.reject(error);
  }

  head(headers: Map<string, string>): void {
    for (const [name, value] of headers) this.headers.set(name, value);
  }

  /** What a proxy says in the server's place is no message. */
  add(data: Uint8Array): void {
    if (this.headers.get(":status") !== "200") return;
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
    this.#ended = true;
    const whole = this.#message && this.#at === MESSAGE_HEAD_BYTES + this.#message.length;
    if (this.#at > 0 && !whole) this.reject(new Http2Error("the answer ended before its end"));
    this.#answer.resolve({ headers: this.headers, message: this.#message });
  }

  /**
   * The server has given the stream up; after its answer that means only that it reads no further. REFUSED_STREAM says
   * that nothing was done (RFC 9113, 8.7), and of a server that had begun to answer it is not believed.
   */
  reset(code: number): void {
    const unsent = code === ERROR.REFUSED_STREAM && this.headers.size === 0;
    this.drop(new Http2Error(`the server has reset the call (${code})`, unsent));
  }

  drop(error: Http2Error): void {
    this.#dropped = true;
    this.reject(error);
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
