/**
 * The mirror's rows as COPY's binary format has them (PostgreSQL's manual, COPY, "Binary Format"): a header, then for each
 * row its number of fields, and for each field its length (-1 = null) and bytes; a number of -1 ends it.
 */
import { Buffer } from "node:buffer";
// @ts-types="@types/pg-copy-streams"
import { to as copyTo } from "pg-copy-streams";
import { keyBytes } from "../core/codec.ts";
import type { MirrorEntry } from "../core/compare.ts";
import type { Session } from "./client.ts";

/** The columns, in the order in which the decoder takes them. */
export const COPIED = "key, value, value_bytes, revision, create_revision, version, lease, timeline";
const FIELDS = 8;
/** Signature, flags, and the length of an extension, which is none. */
const HEADER_BYTES = 19;
const CHUNK_BYTES = 1 << 18;

/**
 * Copies rows out, as they come; the server waits where nobody takes them. `query` selects COPIED. A session that is left
 * before the end can only be closed.
 */
export async function* copyRows(session: Session, query: string): AsyncGenerator<MirrorEntry[]> {
  const copy = session.submit(copyTo(`copy (${query}) to stdout (format binary)`, {
    highWaterMark: CHUNK_BYTES,
  }));
  copy.on("error", () => {}); // it reaches the reader through the iterator
  const decoder = new RowDecoder();
  try {
    for await (const chunk of copy) {
      const rows = decoder.feed(chunk as Buffer);
      if (rows.length > 0) yield rows;
    }
  } catch (error) {
    throw session.broken ?? error;
  }
  if (!decoder.ended) throw session.broken ?? new Error("the copy of the mirror ended before its end");
}

/** A byte order mark is a part of its key. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** From chunks, cut anywhere, to rows. What a row holds is a part of its chunk. */
export class RowDecoder {
  #rest: Buffer[] = [];
  #size = 0;
  /** Bytes that have to be there before it is worth looking again. */
  #wanted = HEADER_BYTES;
  #header = true;
  ended = false;

  feed(chunk: Buffer): MirrorEntry[] {
    this.#rest.push(chunk);
    this.#size += chunk.length;
    if (this.#size < this.#wanted) return [];
    const bytes = this.#rest.length === 1 ? this.#rest[0] : Buffer.concat(this.#rest);
    let at = this.#header ? HEADER_BYTES : 0;
    this.#header = false;
    const rows: MirrorEntry[] = [];
    for (let end = this.#rowEnd(bytes, at); end > 0; end = this.#rowEnd(bytes, at)) {
      rows.push(readRow(bytes, at));
      at = end;
    }
    this.#rest = at < bytes.length ? [bytes.subarray(at)] : [];
    this.#size = bytes.length - at;
    this.#wanted -= at;
    return rows;
  }

  /** Where the row ends that begins at `at`; 0: it is not all there. */
  #rowEnd(bytes: Buffer, at: number): number {
    let end = at + 2;
    for (let field = 0; field <= FIELDS; field++) {
      this.#wanted = end;
      if (end > bytes.length) return 0;
      if (field === 0 && bytes.readInt16BE(at) === -1) this.ended = true;
      if (this.ended) return 0;
      if (field === FIELDS) return end;
      this.#wanted = end + 4;
      if (end + 4 > bytes.length) return 0;
      end += 4 + Math.max(0, bytes.readInt32BE(end));
    }
    return 0;
  }
}

function readRow(bytes: Buffer, at: number): MirrorEntry {
  at += 2;
  const slice = (): Uint8Array | null => {
    const length = bytes.readInt32BE(at);
    at += 4;
    if (length < 0) return null;
    at += length;
    return bytes.subarray(at - length, at);
  };
  const int8 = (): number => {
    at += 12;
    return bytes.readInt32BE(at - 8) * 2 ** 32 + bytes.readUInt32BE(at - 4);
  };
  const key = slice()!;
  const text = hasEscape(key) ? decoder.decode(key) : null;
  return {
    key: text === null ? key : keyBytes(text),
    text,
    value: slice(),
    valueBytes: slice(),
    revision: int8(),
    createRevision: int8(),
    version: int8(),
    lease: (at += 12, bytes.readBigInt64BE(at - 8)),
    timeline: int8(),
  };
}

/** Whether the key's text holds `\x`. */
function hasEscape(key: Uint8Array): boolean {
  const at = key.indexOf(0x5c);
  return at >= 0 && Buffer.from(key.buffer, key.byteOffset, key.length).includes("\\x", at);
}
