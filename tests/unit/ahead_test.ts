/** Pages read ahead of a scan: their order, how many, and the memory that they lie in. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { PackedKeys, Page } from "../../lib/core/words.ts";
import { PagesAhead } from "../../lib/etcd/ahead.ts";
import type { Allocate } from "../../lib/etcd/exchange.ts";
import { strict } from "../support/run.ts";

const keys = { count: 0 } as PackedKeys;
/** Read before the one that is taken: more of them would be memory without a bound. */
const AHEAD = 2;

/** Pages whose first key is their number, of these sizes; a page's bytes are all its number. */
class Source {
  readonly bytes = new Map<number, Uint8Array>();
  readonly memory = new Set<ArrayBufferLike>();
  asked = 0;
  reading = 0;

  constructor(
    readonly sizes: number[],
    /** Before an answer is there; may throw. */
    readonly wait: (page: number) => Promise<void>,
    /** How often a page's answer broke off, or was of an empty range, before it came. */
    readonly vain: (page: number) => number = () => 0,
  ) {}

  readonly read = async ([n]: Uint8Array, allocate: Allocate): Promise<Page> => {
    this.asked++;
    assert.equal(++this.reading, 1, "one at a time, for each says where the next begins");
    const allocated = () => {
      const bytes = allocate(this.sizes[n]);
      this.memory.add(bytes.buffer);
      return bytes;
    };
    for (let i = this.vain(n); i > 0; i--) allocated().fill(0xff);
    const bytes = allocated().fill(n);
    assert.equal(bytes.length, this.sizes[n]);
    this.bytes.set(n, bytes);
    await this.wait(n);
    this.reading--;
    const last = n === this.sizes.length - 1;
    return {
      clusterId: "1",
      revision: n,
      from: Uint8Array.of(n),
      to: Uint8Array.of(n + 1),
      last,
      keys,
      remaining: 0,
    };
  };
}

const turns = async (n: number) => {
  for (; n > 0; n--) await Promise.resolve();
};

Deno.test("pages come in their order, and stay as they are until the next is asked for", strict, async () => {
  const slow = fc.array(fc.nat(6), { minLength: 1, maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 0, max: 500 }), { minLength: 1, maxLength: 30 }),
      slow,
      slow,
      fc.array(fc.nat(2), { minLength: 1, maxLength: 5 }),
      async (sizes, reads, uses, vain) => {
        const source = new Source(
          sizes,
          (n) => turns(reads[n % reads.length]),
          (n) => vain[n % vain.length],
        );
        let taken = 0;
        const ahead = new PagesAhead(source.read, Uint8Array.of(0), () => taken);
        for (let read = await ahead.next(); read; read = await ahead.next()) {
          const { page, note } = read;
          assert.equal(page.revision, taken);
          assert.ok(note <= taken && note >= taken - AHEAD, `page ${taken} was asked for after ${note}`);
          taken++;
          await turns(uses[taken % uses.length]);
          assert.ok(source.bytes.get(page.revision)!.every((byte) => byte === page.revision));
          assert.ok(source.asked <= taken + AHEAD);
        }
        assert.equal(taken, sizes.length);
      },
    ),
  );
});

Deno.test("the memory of pages of about one size is used again", strict, async () => {
  const sizes = Array.from({ length: 100 }, (_, n) => 1_000 + n % 10);
  const source = new Source(sizes, () => turns(3), (n) => n % 3);
  const ahead = new PagesAhead(source.read, Uint8Array.of(0), () => null);
  while (await ahead.next()) await turns(2);
  assert.ok(source.memory.size <= AHEAD + 1, `${source.memory.size} pieces`);
});

Deno.test("of large pages one is read ahead", strict, async () => {
  const source = new Source([1, 5_000_000, 1, 5_000_000, 1], () => turns(1));
  const ahead = new PagesAhead(source.read, Uint8Array.of(0), () => null);
  const asked: number[] = [];
  for (let taken = 0; taken < 5; taken++) {
    await turns(20);
    asked.push(source.asked);
    await ahead.next();
  }
  assert.deepEqual(asked, [2, 2, 4, 4, 5]);
});

Deno.test("a page that cannot be read fails in its turn, after those before it", strict, async () => {
  const source = new Source([1, 1, 1, 1], (n) => n === 1 ? Promise.reject(new Error("gone")) : turns(1));
  const ahead = new PagesAhead(source.read, Uint8Array.of(0), () => null);
  assert.equal((await ahead.next())!.page.revision, 0);
  await turns(20);
  assert.equal(source.asked, 2, "and none behind it");
  await assert.rejects(ahead.next(), /gone/);
});

Deno.test("a scan that was at its end has no pages", strict, async () => {
  const ahead = new PagesAhead(() => Promise.reject(new Error("read")), null, () => null);
  assert.equal(await ahead.next(), null);
});
