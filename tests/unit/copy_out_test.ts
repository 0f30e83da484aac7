/** The messages of a copy are taken apart, however they are cut, and what follows it is left to pg. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { CopyMessages } from "../../lib/postgres/copy_out.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

function message(kind: string, body: Uint8Array): Buffer {
  const head = Buffer.alloc(5, kind);
  head.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const body = fc.uint8Array({ maxLength: 30 });
const passing = fc.record({ kind: fc.constantFrom("d", "d", "d", "H", "N", "S", "A"), body });
const ending = fc.constantFrom(
  [message("c", Buffer.alloc(0)), message("C", Buffer.from("COPY 3\0"))],
  [Buffer.alloc(0), message("E", Buffer.from("SERROR\0\0"))],
);

Deno.test("the rows' bytes come whole and in order, and the end is pg's", strict, () => {
  fc.assert(
    fc.property(
      fc.array(passing),
      ending,
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      (messages, [last, rest], sizes) => {
        const wire = Buffer.concat([
          ...messages.map(({ kind, body }) => message(kind, body)),
          last,
          rest,
          message("Z", Buffer.from("I")),
        ]);
        const copy = new CopyMessages();
        const rows: Buffer[] = [];
        const left: Uint8Array[] = [];
        for (let at = 0, i = 0; at < wire.length; at += sizes[i++ % sizes.length]) {
          const chunk = Buffer.from(wire.subarray(at, at + sizes[i % sizes.length]));
          if (copy.rest) left.push(chunk); // the connection is pg's again
          else rows.push(copy.take(chunk));
        }
        assert.deepEqual(
          Buffer.concat(rows),
          Buffer.concat(messages.flatMap((m) => m.kind === "d" ? m.body : [])),
        );
        assert.deepEqual(
          Buffer.concat([copy.rest!, ...left]),
          Buffer.concat([rest, message("Z", Buffer.from("I"))]),
        );
      },
    ),
    { numRuns: 2_000 },
  );
});
