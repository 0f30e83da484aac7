/**
 * HTTP/2's header blocks (RFC 7541), as far as one needs them who asks for no dynamic table: names and values stand in
 * the block itself, and only the status of HTTP comes from the static table.
 */

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Without an index, and not compressed. */
export function encodeHeaders(headers: Iterable<[name: string, value: string]>): Uint8Array {
  const block: number[] = [];
  for (const [name, value] of headers) block.push(0, ...text(name), ...text(value));
  return Uint8Array.from(block);
}

function text(value: string): number[] {
  const bytes = encoder.encode(value);
  return [...integer(bytes.length, 7), ...bytes];
}

/** RFC 7541, 5.1: the lowest `bits` bits of a byte whose others are 0, and as many bytes more as it takes. */
function integer(value: number, bits: number): number[] {
  const most = 2 ** bits - 1;
  if (value < most) return [value];
  const out = [most];
  for (value -= most; value > 0x7f; value = Math.floor(value / 128)) out.push(value & 0x7f | 0x80);
  return [...out, value];
}

/** @throws {Error} where the block refers to a dynamic table, or ends early */
export function decodeHeaders(block: Uint8Array): Map<string, string> {
  const headers = new Map<string, string>();
  const reader = new BlockReader(block);
  while (reader.more()) {
    const first = block[reader.at];
    if (first & 0x80) {
      const [name, value] = staticEntry(reader.integer(7));
      headers.set(name, value);
    } else if ((first & 0xe0) === 0x20) {
      reader.integer(5); // the size of the dynamic table
    } else {
      const index = reader.integer(first & 0x40 ? 6 : 4);
      const name = index > 0 ? staticEntry(index)[0] : reader.text();
      headers.set(name, reader.text());
    }
  }
  return headers;
}

const STATIC_ENTRIES = 61;
/** RFC 7541, appendix A. */
const FIRST_STATUS = 8;
const STATUSES = ["200", "204", "206", "304", "400", "404", "500"];

/** Only `:status` is looked at; what the others are called is of no use here. */
function staticEntry(index: number): [name: string, value: string] {
  if (index < 1 || index > STATIC_ENTRIES) {
    throw new Error(`a header of index ${index}, which was not agreed on`);
  }
  const status = STATUSES[index - FIRST_STATUS];
  return status ? [":status", status] : [`static-${index}`, ""];
}

class BlockReader {
  at = 0;

  constructor(readonly bytes: Uint8Array) {}

  more(): boolean {
    return this.at < this.bytes.length;
  }

  integer(bits: number): number {
    const most = 2 ** bits - 1;
    let value = this.#byte() & most;
    if (value < most) return value;
    for (let scale = 1;; scale *= 128) {
      const byte = this.#byte();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
  }

  text(): string {
    const compressed = this.bytes[this.at] & 0x80;
    const length = this.integer(7);
    if (this.at + length > this.bytes.length) throw new Error("a header block that ends early");
    const bytes = this.bytes.subarray(this.at, this.at += length);
    return compressed ? decodeHuffman(bytes) : decoder.decode(bytes);
  }

  #byte(): number {
    if (!this.more()) throw new Error("a header block that ends early");
    return this.bytes[this.at++];
  }
}

/** Bits of the code of each byte (RFC 7541, appendix B). The code is canonical: these say all of it. */
// deno-fmt-ignore
const CODE_LENGTHS = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
  28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
  7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
  6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
  21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/** From a code with a leading 1, which keeps its zeros, to the byte. */
function canonicalCode(lengths: number[]): Map<number, number> {
  const codes = new Map<number, number>();
  let code = 0;
  for (let bits = 1; bits <= 30; bits++) {
    code *= 2;
    lengths.forEach((length, byte) => {
      if (length === bits) codes.set(2 ** bits + code++, byte);
    });
  }
  return codes;
}

let huffman: Map<number, number> | undefined;

/** What is left at the end is padding. */
function decodeHuffman(bytes: Uint8Array): string {
  huffman ??= canonicalCode(CODE_LENGTHS);
  const out: number[] = [];
  let code = 1;
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit--) {
      code = code * 2 + (byte >> bit & 1);
      const found = huffman.get(code);
      if (found === undefined) continue;
      out.push(found);
      code = 1;
    }
  }
  return decoder.decode(Uint8Array.from(out));
}
