/** The mirror's decisions: events and pages into the columns that one statement takes. Pure. */
import { isUnbounded, keyText, startsWith, textPrefix, valueColumns } from "./codec.ts";
import { type Event, type KeyValue, OWN_PREFIX, type Page } from "./words.ts";

/** Parallel arrays, one element for each row, as `unnest` takes them. */
export interface RowColumns {
  keys: string[];
  values: (string | null)[];
  valueBytes: (Uint8Array | null)[];
  revisions: number[];
  createRevisions: number[];
  versions: number[];
  leases: string[];
}

export interface EventColumns extends RowColumns {
  tombstones: boolean[];
  /** Revision of the key's event before this one in the batch; null = it is the key's first. */
  previous: (number | null)[];
  /** Revision of the key's next event in the batch; null = it is the key's last. */
  next: (number | null)[];
}

/** The newest mirrored row: a restored etcd that lacks it shows by it. */
export interface Probe {
  key: string;
  revision: number;
}

/** What may be mirrored, and the keys that are too long for an index entry. */
export interface Selection {
  prefix: Uint8Array;
  /** Bytes of a key as SQL writes it. */
  maxKeyBytes: number;
}

/** What an index entry can hold. */
const MAX_KEY_BYTES = 2_500;

export function selectionOf({ prefix }: { prefix: Uint8Array }): Selection {
  return { prefix, maxKeyBytes: MAX_KEY_BYTES };
}

const OWN = new TextEncoder().encode(OWN_PREFIX);
const encoder = new TextEncoder();
/** The last character; 625 of them are as long as a key can be. */
const LAST = "\u{10ffff}";

/** By two bytes of the key that begins at `from`: whether it can be one of our own. */
export function mayBeOwn(bytes: Uint8Array, from: number): boolean {
  return bytes[from] === OWN[0] && bytes[from + 1] === OWN[1];
}

/** A key's text, or why it is not mirrored. */
export function mirroredKey(
  key: Uint8Array,
  select: Selection,
): { text: string } | { skipped: "foreign" | "own" | "too-long" } {
  if (!startsWith(key, select.prefix)) return { skipped: "foreign" };
  if (startsWith(key, OWN)) return { skipped: "own" };
  const text = keyText(key);
  // a text of n UTF-16 units has n to 3n bytes
  const long = text.length > select.maxKeyBytes ||
    (text.length * 3 > select.maxKeyBytes && encoder.encode(text).length > select.maxKeyBytes);
  return long ? { skipped: "too-long" } : { text };
}

export function emptyRows(): RowColumns {
  return {
    keys: [],
    values: [],
    valueBytes: [],
    revisions: [],
    createRevisions: [],
    versions: [],
    leases: [],
  };
}

function pushRow(rows: RowColumns, key: string, kv: KeyValue, tombstone: boolean): void {
  const { value, valueBytes } = tombstone ? { value: null, valueBytes: null } : valueColumns(kv.value);
  rows.keys.push(key);
  rows.values.push(value);
  rows.valueBytes.push(valueBytes);
  rows.revisions.push(kv.modRevision);
  rows.createRevisions.push(kv.createRevision);
  rows.versions.push(kv.version);
  rows.leases.push(kv.lease.toString());
}

/** A key that was left out for its length, for the audit. */
export interface Skipped {
  key_begins: string;
  key_bytes: number;
  revision: number;
}

export function skippedKey({ key, modRevision }: Pick<KeyValue, "key" | "modRevision">): Skipped {
  return { key_begins: keyText(key.subarray(0, 100)), key_bytes: key.length, revision: modRevision };
}

/** Events of whole revisions, oldest first, as columns; and the keys that were left out for their length. */
export function foldEvents(
  events: Event[],
  select: Selection,
): { columns: EventColumns; skipped: Skipped[] } {
  const columns: EventColumns = { ...emptyRows(), tombstones: [], previous: [], next: [] };
  const skipped: Skipped[] = [];
  const lastOf = new Map<string, number>();
  for (const { kv, tombstone } of events) {
    const key = mirroredKey(kv.key, select);
    if ("skipped" in key) {
      if (key.skipped === "too-long" && !tombstone) skipped.push(skippedKey(kv));
      continue;
    }
    const at = columns.keys.length;
    const before = lastOf.get(key.text);
    pushRow(columns, key.text, kv, tombstone);
    columns.tombstones.push(tombstone);
    columns.next.push(null);
    columns.previous.push(before === undefined ? null : columns.revisions[before]);
    if (before !== undefined) columns.next[before] = kv.modRevision;
    lastOf.set(key.text, at);
  }
  return { columns, skipped };
}

/** A page's keys as columns; and those that were left out for their length. */
export function foldPage(
  kvs: Iterable<KeyValue>,
  select: Selection,
): { columns: RowColumns; skipped: Skipped[] } {
  const columns = emptyRows();
  const skipped: Skipped[] = [];
  for (const kv of kvs) {
    const key = mirroredKey(kv.key, select);
    if ("text" in key) pushRow(columns, key.text, kv, false);
    else if (key.skipped === "too-long") skipped.push(skippedKey(kv));
  }
  return { columns, skipped };
}

/** The probe after a batch: its newest put, if the key is still there at the batch's end. */
export function probeAfter(probe: Probe | null, columns: EventColumns): Probe | null {
  let newest = probe;
  columns.keys.forEach((key, i) => {
    if (columns.next[i] !== null) return;
    if (!columns.tombstones[i]) {
      if (newest === null || columns.revisions[i] >= newest.revision) {
        newest = { key, revision: columns.revisions[i] };
      }
    } else if (newest?.key === key) {
      newest = null;
    }
  });
  return newest;
}

/** The newer of two probes. */
export function newerProbe(a: Probe | null, b: Probe | null): Probe | null {
  return a === null || b !== null && b.revision > a.revision ? b : a;
}

/** The newest row of a page; null: it has none. */
export function newestRow(columns: RowColumns): Probe | null {
  let newest: Probe | null = null;
  columns.keys.forEach((key, i) => newest = newerProbe(newest, { key, revision: columns.revisions[i] }));
  return newest;
}

/**
 * Bounds of a page's range on the text index, for plain keys. They may be wider than the range, never narrower; the
 * statement compares the bytes as well. The beginning of `from` that is text sorts before `from`. An end that is a
 * key's successor is that key itself; any other is not below its own beginning followed by the last characters.
 */
export function textBounds(
  page: Pick<Page, "from" | "to">,
): { low: string; high: string; end: Uint8Array | null } {
  const low = textPrefix(page.from);
  if (isUnbounded(page.to)) return { low, high: LAST.repeat(625), end: null };
  const beginning = textPrefix(page.to);
  const size = encoder.encode(beginning).length;
  const exact = size === page.to.length || (size === page.to.length - 1 && page.to[size] === 0);
  return { low, high: exact ? beginning : beginning + LAST.repeat(625), end: page.to };
}
