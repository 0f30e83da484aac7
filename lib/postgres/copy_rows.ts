/**
 * The mirror's rows as COPY's binary format has them (PostgreSQL's manual, COPY, "Binary Format"): a header, then for each
 * row its number of fields, and for each field its length (-1 = null) and bytes; a number of -1 ends it.
 */
import { Buffer } from "node:buffer";
// @ts-types="@types/pg"
import pg from "pg";
import { asText, isUnbounded, keyBytes } from "../core/codec.ts";
import type { MirrorEntry } from "../core/compare.ts";
import type { RowView } from "../core/page_diff.ts";
import { textBounds } from "../core/plan.ts";
import type { Session } from "./client.ts";
import { CopyOut } from "./copy_out.ts";

/** The columns, in the order in which the cursor takes them. */
const COPIED = "key, value, value_bytes, revision, create_revision, version, lease, timeline";
const FIELDS = 8;
/** The first fields; the others are integers of eight bytes, never null. */
const VARYING = 3;
/** Its length, and eight bytes. */
const INT8 = 12;
/** In place of a row's number of fields. */
const END = -1;
/** Signature, flags, and the length of an extension, which is none. */
const HEADER_BYTES = 19;

/** A range of etcd's keys, as for a request: `to` = `\0` is the end of the keyspace. */
export interface KeyRange {
  from: Uint8Array;
  to: Uint8Array;
}

/** Rows whose key is without `\x`, in the order of their bytes. null: all rows. */
export function plainRows(range: KeyRange | null): string {
  return `select ${COPIED} from etcd_kv where strpos(key, '\\x') = 0${plainRange(range)} order by key`;
}

/** The other rows, in the order of their bytes in etcd. */
export function escapedRows(range: KeyRange | null): string {
  const bytes = "etcd_key_bytes(key)";
  const lower = range ? ` and ${bytes} >= ${literal(range.from)}` : "";
  const upper = range && !isUnbounded(range.to) ? ` and ${bytes} < ${literal(range.to)}` : "";
  return `select ${COPIED} from etcd_kv where strpos(key, '\\x') > 0${lower}${upper} order by ${bytes}`;
}

/** To compare the bytes of each key takes a third of the time of the copy, so it is left out where the texts say it all. */
function plainRange(range: KeyRange | null): string {
  if (!range) return "";
  const { low, high } = textBounds(range);
  const bytes = "convert_to(key, 'UTF8')";
  const from = textEdge(range.from);
  const lower = from
    ? ` and key ${from.after ? ">" : ">="} ${pg.escapeLiteral(from.text)}`
    : ` and key >= ${pg.escapeLiteral(low)} and ${bytes} >= ${literal(range.from)}`;
  if (isUnbounded(range.to)) return lower;
  const to = textEdge(range.to);
  const upper = to
    ? ` and key ${to.after ? "<=" : "<"} ${pg.escapeLiteral(to.text)}`
    : ` and key <= ${pg.escapeLiteral(high)} and ${bytes} < ${literal(range.to)}`;
  return lower + upper;
}

/** An end of a range as text: keys that are text are at it (`after`: behind it) just as their bytes are; null: it is none. */
function textEdge(edge: Uint8Array): { text: string; after: boolean } | null {
  const text = asText(edge);
  if (text !== undefined) return { text, after: false };
  const before = edge.at(-1) === 0 ? asText(edge.subarray(0, -1)) : undefined; // a key's successor
  return before === undefined ? null : { text: before, after: true };
}

function literal(bytes: Uint8Array): string {
  return `decode('${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}', 'hex')`;
}

/**
 * Copies rows out, as they come, behind one cursor; the server waits where nobody takes them. `query` selects COPIED. The
 * cursor has to be read to its end each time. A session that is left before the end can only be closed.
 */
export async function* copyOut(session: Session, query: string): AsyncGenerator<RowCursor> {
  const copy = session.submit(new CopyOut(`copy (${query}) to stdout (format binary)`));
  const cursor = new RowCursor();
  try {
    for await (const chunk of copy.chunks()) {
      cursor.feed(chunk);
      yield cursor;
    }
  } catch (error) {
    throw session.broken ?? error;
  }
  if (!cursor.ended) throw session.broken ?? new Error("the copy of the mirror ended before its end");
}

/** As `copyOut`, each row as an object. */
export async function* copyRows(session: Session, query: string): AsyncGenerator<MirrorEntry[]> {
  for await (const cursor of copyOut(session, query)) {
    const rows: MirrorEntry[] = [];
    while (cursor.next()) rows.push(rowEntry(cursor));
    if (rows.length === 0) continue;
    cursor.keep();
    yield rows;
  }
}

/** A byte order mark is a part of its key. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The row that the cursor stands on; what it holds is a part of the cursor's bytes. */
export function rowEntry(row: RowCursor): MirrorEntry {
  const slice = (from: number, to: number) => row.bytes.subarray(from, to);
  const key = slice(row.keyFrom, row.keyTo);
  const text = hasEscape(key) ? decoder.decode(key) : null;
  return {
    key: text === null ? key : keyBytes(text),
    text,
    value: row.valueFrom < 0 ? null : slice(row.valueFrom, row.valueTo),
    valueBytes: row.valueBytesFrom < 0 ? null : slice(row.valueBytesFrom, row.valueBytesTo),
    revision: row.revision,
    createRevision: row.createRevision,
    version: row.version,
    lease: row.lease,
    timeline: row.timeline,
  };
}

/** Whether the key's text holds `\x`. */
function hasEscape(key: Uint8Array): boolean {
  const at = key.indexOf(0x5c);
  return at >= 0 && Buffer.from(key.buffer, key.byteOffset, key.length).includes("\\x", at);
}

/**
 * Steps through rows that come in chunks, cut anywhere. A row is valid until the next step, its bytes until the next chunk
 * is fed, or for ever if they are kept. No object is made for it.
 */
export class RowCursor implements RowView {
  bytes: Uint8Array = new Uint8Array();
  keyFrom = 0;
  keyTo = 0;
  valueFrom = 0;
  valueTo = 0;
  valueBytesFrom = 0;
  valueBytesTo = 0;
  revision = 0;
  createRevision = 0;
  version = 0;
  lease = 0n;
  timeline = 0;
  /** The end of the rows was there. */
  ended = false;
  #store = new Uint8Array();
  #view = new DataView(this.#store.buffer);
  #at = 0;
  #header = true;

  /** More bytes; those of the rows before go, if they are not kept. */
  feed(chunk: Uint8Array): void {
    const rest = this.bytes.subarray(this.#at);
    const size = rest.length + chunk.length;
    if (size > this.#store.length) {
      this.#store = new Uint8Array(Math.max(size, 2 * rest.length));
      this.#view = new DataView(this.#store.buffer);
      this.#store.set(rest);
    } else if (this.#at > 0) {
      this.#store.copyWithin(0, this.#at, this.bytes.length);
    }
    this.#store.set(chunk, rest.length);
    this.bytes = this.#store.subarray(0, size);
    this.#at = 0;
  }

  /** What was read so far stays as it is. */
  keep(): void {
    this.#store = new Uint8Array();
  }

  /** Steps to the next row; false: it is not there yet, or there is none. */
  next(): boolean {
    const { length } = this.bytes;
    if (this.#header) {
      if (length < HEADER_BYTES) return false;
      this.#header = false;
      this.#at = HEADER_BYTES;
    }
    const end = this.#rowEnd();
    if (end < 0 || end > length) return false;
    let at = this.#at + 2;
    [this.keyFrom, this.keyTo] = [at + 4, at = this.#skip(at)];
    this.valueFrom = this.#begin(at);
    this.valueTo = at = this.#skip(at);
    this.valueBytesFrom = this.#begin(at);
    this.valueBytesTo = at = this.#skip(at);
    this.revision = this.#int8(at);
    this.createRevision = this.#int8(at + INT8);
    this.version = this.#int8(at + 2 * INT8);
    this.lease = this.#view.getBigInt64(at + 3 * INT8 + 4);
    this.timeline = this.#int8(at + 4 * INT8);
    this.#at = end;
    return true;
  }

  /** Where the row ends that comes next, as far as that is known; beyond the bytes: it is not all there. -1: none comes. */
  #rowEnd(): number {
    const { length } = this.bytes;
    let end = this.#at + 2;
    if (this.ended) return -1;
    if (end > length) return end;
    if (this.#view.getInt16(this.#at) === END) {
      this.ended = true;
      return -1;
    }
    for (let field = 0; field < VARYING; field++) {
      if (end + 4 > length) return end + 4;
      end = this.#skip(end);
    }
    return end + (FIELDS - VARYING) * INT8;
  }

  /** The end of the field whose length stands at `at`. */
  #skip(at: number): number {
    return at + 4 + Math.max(0, this.#view.getInt32(at));
  }

  /** Where the field's bytes begin; -1: it is null. */
  #begin(at: number): number {
    return this.#view.getInt32(at) < 0 ? -1 : at + 4;
  }

  #int8(at: number): number {
    return this.#view.getInt32(at + 4) * 2 ** 32 + this.#view.getUint32(at + 8);
  }
}
