/**
 * Where the next page of a scan should end. etcd counts the whole range that it is asked for, with each page: to ask for
 * the rest every time is quadratic (1,000,000 keys in pages of 20,000: two thirds of etcd's work). So a page is asked for
 * in a range that holds about as many keys as wanted, by what the last page was like:
 *
 *   page of 20,000 keys, /app/00020000 to /app/00039999; 40,000 more are taken to reach to /app/0008
 *
 * A wrong guess costs a smaller page, an empty range or a longer count, never a key.
 */
import { asText } from "./codec.ts";
import { compareBytes } from "./compare.ts";

/** A range that held less than this share of what was wanted says nothing of the next. */
const LEAST_SHARE = 1 / 4;
/** Bytes behind the common ones that are looked at. */
const WINDOW = 8;

export class Stride {
  #page: { first: Uint8Array; last: Uint8Array; count: number } | undefined;
  /** Ranges since then that held next to nothing. */
  #misses = 0;

  /** What was read from a range that was to hold `wanted` keys; null: from one without a bound. */
  learn(keys: { first: Uint8Array; last: Uint8Array; count: number }, wanted: number | null): void {
    if (wanted === null || keys.count >= wanted * LEAST_SHARE) {
      this.#page = { first: keys.first.slice(), last: keys.last.slice(), count: keys.count };
      this.#misses = 0;
    } else {
      this.#misses++;
    }
  }

  /**
   * The end of a range from `from` that holds about `wanted` keys; null where that cannot be told. It is text, so
   * that the mirror's index on text can be read to the same end.
   */
  bound(from: Uint8Array, wanted: number): Uint8Array | null {
    if (!this.#page || this.#page.count < 2) return null;
    const { first, last, count } = this.#page;
    const size = common(first, last) + WINDOW;
    const width = Number(number(last, size) - number(first, size));
    const step = Math.ceil(width / count * wanted * stretch(this.#misses));
    if (!(step > 0 && step < Infinity)) return null;
    const end = number(from, size) + BigInt(step);
    return end >> BigInt(8 * size) ? null : textAfter(from, digits(end, size));
  }
}

/** Three bytes farther in small steps, then twice as many bytes with each: keys of another folder may be far away. */
function stretch(misses: number): number {
  return 4 ** (misses <= 12 ? misses : 12 * 2 ** (misses - 12));
}

function common(a: Uint8Array, b: Uint8Array): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

/** The first `size` bytes as a number. */
function number(key: Uint8Array, size: number): bigint {
  let value = 0n;
  for (let i = 0; i < size; i++) value = value << 8n | BigInt(key[i] ?? 0);
  return value;
}

function digits(value: bigint, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Number(value >> BigInt(8 * (size - 1 - i)) & 0xffn));
}

/** What completes a character of which the first bytes are there. */
const COMPLETIONS = [[], [0x80], [0x80, 0x80], [0x80, 0x80, 0x80], [0xa0, 0x80], [0x90, 0x80, 0x80]];

/**
 * `bytes` as far as they are in ASCII from where they differ from `from`, and one character more; where that is no text,
 * the next text above it.
 */
function textAfter(from: Uint8Array, bytes: number[]): Uint8Array | null {
  let end = 0;
  while (end < bytes.length && bytes[end] === from[end]) end++;
  while (end < bytes.length && bytes[end] > 0 && bytes[end] < 0x80) end++;
  for (let at = end; at >= 0; at--) {
    const byte = at === end ? bytes[end] || undefined : bytes[at] + 1;
    for (const rest of COMPLETIONS) {
      const bound = Uint8Array.from([...bytes.slice(0, at), ...(byte === undefined ? [] : [byte, ...rest])]);
      if (asText(bound) !== undefined && compareBytes(bound, from) > 0) return bound;
    }
  }
  return null;
}
