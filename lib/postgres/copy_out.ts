/**
 * COPY … TO STDOUT: what the rows' messages hold, as it comes. The server sends a message for each row (PostgreSQL's manual,
 * "Message Flow", "COPY Operations"), and a scan reads millions: so no object is made for a message, which is the most of
 * what pg-copy-streams costs.
 */
import { Buffer } from "node:buffer";
import type { Duplex } from "node:stream";
// @ts-types="@types/pg"
import type pg from "pg";

/** A message's kind, and its length, which counts itself. */
const HEAD_BYTES = 5;
const LENGTH_BYTES = 4;
const COPY_DATA = "d".charCodeAt(0);
const COPY_DONE = "c".charCodeAt(0);
/** The copy's beginning, and what the server may say at any time. */
const PASSED_OVER = [..."HNSA"].map((kind) => kind.charCodeAt(0));

/** Takes the messages of a copy apart, however they are cut. */
export class CopyMessages {
  /** What came after the copy, which is for pg; undefined: it goes on. */
  rest: Buffer | undefined;
  #head: number[] = [];
  /** Bytes of the message that are still to come. */
  #left = 0;
  #isData = false;

  /** The rows' bytes of a chunk, gathered at its beginning: it is overwritten. */
  take(chunk: Buffer): Buffer {
    let to = 0;
    for (let at = 0; at < chunk.length && !this.rest;) {
      if (this.#left === 0) {
        at = this.#begin(chunk, at);
        continue;
      }
      const end = Math.min(chunk.length, at + this.#left);
      if (this.#isData) {
        chunk.copyWithin(to, at, end);
        to += end - at;
      }
      this.#left -= end - at;
      at = end;
    }
    return chunk.subarray(0, to);
  }

  /** A message begins at `at`; returns where it goes on. */
  #begin(chunk: Buffer, at: number): number {
    const missing = HEAD_BYTES - this.#head.length;
    if (chunk.length - at < missing) {
      this.#head.push(...chunk.subarray(at));
      return chunk.length;
    }
    const from = at + missing;
    const whole = this.#head.length === 0;
    const head = whole ? chunk : Buffer.from([...this.#head, ...chunk.subarray(at, from)]);
    const start = whole ? at : 0;
    const kind = head[start];
    this.#isData = kind === COPY_DATA;
    if (this.#isData || PASSED_OVER.includes(kind)) {
      this.#left = head.readUInt32BE(start + 1) - LENGTH_BYTES;
    } else {
      // an error, or the end, of which pg wants to hear the answer only
      const seen = kind === COPY_DONE ? Buffer.alloc(0) : head.subarray(start, start + HEAD_BYTES);
      this.rest = Buffer.concat([seen, chunk.subarray(from)]);
    }
    if (!whole) this.#head = [];
    return from;
  }
}

/** Chunks that wait; then the server has to. */
const WAITING_BYTES = 1 << 20;

/** A copy under way, as pg runs it: `Session.submit`. Its chunks come as the socket has them. */
export class CopyOut implements pg.Submittable {
  #stream: Duplex | undefined;
  #pg: ((chunk: Buffer) => void) | undefined;
  readonly #messages = new CopyMessages();
  readonly #waiting: Buffer[] = [];
  #bytes = 0;
  #end: { error?: Error } | undefined;
  #wake = () => {};
  readonly #close: (() => void)[] = [];

  constructor(readonly query: string) {}

  once(_event: "close", done: () => void): void {
    this.#close.push(done);
  }

  submit(connection: pg.Connection): void {
    const { stream } = connection as unknown as { stream: Duplex };
    [this.#pg] = stream.listeners("data") as ((chunk: Buffer) => void)[];
    this.#stream = stream;
    stream.removeListener("data", this.#pg!);
    stream.on("data", this.#receive);
    connection.query(this.query);
  }

  /** The rows' bytes; each chunk is the caller's. @throws {Error} pg's, where the copy failed */
  async *chunks(): AsyncGenerator<Buffer> {
    for (;;) {
      const chunk = this.#waiting.shift();
      if (chunk) {
        this.#bytes -= chunk.length;
        if (this.#stream!.isPaused() && this.#bytes < WAITING_BYTES) this.#stream!.resume();
        yield chunk;
      } else if (this.#end) {
        if (this.#end.error) throw this.#end.error;
        return;
      } else {
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
    }
  }

  readonly #receive = (chunk: Buffer): void => {
    const rows = this.#messages.take(chunk);
    if (rows.length > 0) {
      this.#waiting.push(rows);
      this.#bytes += rows.length;
      if (this.#bytes >= WAITING_BYTES) this.#stream!.pause();
    }
    if (this.#messages.rest) this.#giveBack(this.#messages.rest);
    this.#wake();
  };

  /** From here on the connection is pg's again. */
  #giveBack(rest: Buffer): void {
    this.#stream!.removeListener("data", this.#receive);
    this.#stream!.on("data", this.#pg!);
    this.#stream!.resume();
    this.#pg!(rest);
  }

  handleError(error: Error): void {
    this.#finish({ error });
  }

  handleReadyForQuery(): void {
    this.#finish({});
  }

  handleCommandComplete(): void {}

  #finish(end: { error?: Error }): void {
    this.#end ??= end;
    this.#wake();
    for (const done of this.#close.splice(0)) done();
  }
}
