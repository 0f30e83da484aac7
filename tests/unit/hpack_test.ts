/** HTTP/2's header blocks, by the examples of RFC 7541 (appendix C) and whatever headers. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { decodeHeaders, encodeHeaders } from "../../lib/etcd/hpack.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
const decoded = (block: string) => Object.fromEntries(decodeHeaders(hex(block)));

Deno.test("decodeHeaders() reads literals, as RFC 7541 C.2 writes them", strict, () => {
  assert.deepEqual(decoded("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"), {
    "custom-key": "custom-header",
  });
  assert.deepEqual(decoded("1008 7061 7373 776f 7264 0673 6563 7265 74"), { password: "secret" });
  // an indexed name of the static table, which is not looked at
  assert.deepEqual(Object.values(decoded("040c 2f73 616d 706c 652f 7061 7468")), ["/sample/path"]);
});

Deno.test("decodeHeaders() reads Huffman's code: RFC 7541 C.4.3, C.6.1, C.6.2", strict, () => {
  assert.deepEqual(decoded("4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"), {
    "custom-key": "custom-value",
  });
  const first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e " +
    "919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
  assert.deepEqual(decoded(first), {
    ":status": "302",
    "static-24": "private",
    "static-33": "Mon, 21 Oct 2013 20:13:21 GMT",
    "static-46": "https://www.example.com",
  });
  assert.equal(decoded("4883 640e ff")[":status"], "307");
});

/** Each byte once, from 0 to 127, in Huffman's code, as other implementations write it. */
const EACH_ASCII =
  "ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfffffebfffff" +
  "ecfffffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdffffffe3fffffe7ffff" +
  "febfffffed4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50ddbd7f061c58f265cd9f469d5af" +
  "66dddbf871e5f9cff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426defe3cfaf7fffbfe7ffbffdffffffc";
/** "aü€😀" as UTF-8. */
const SOME_OTHERS = "1ffff1ffffe1fffdbfffcffffdffffffafffffbfffff27fff37f";

Deno.test("decodeHeaders() knows the code of every byte of text", strict, () => {
  const read = (code: string) => {
    const bytes = hex(code);
    const [length, more] = bytes.length < 127 ? [[bytes.length | 0x80]] : [[0xff], lengthRest(bytes.length)];
    return decodeHeaders(Uint8Array.from([0, 1, 120, ...length, ...more ?? [], ...bytes])).get("x");
  };
  assert.equal(read(EACH_ASCII), String.fromCharCode(...Array.from({ length: 128 }, (_, i) => i)));
  assert.equal(read(SOME_OTHERS), "aü€😀");
});

function lengthRest(length: number): number[] {
  const rest = length - 127;
  return rest < 128 ? [rest] : [rest & 0x7f | 0x80, rest >> 7];
}

Deno.test("what encodeHeaders() writes decodeHeaders() reads, however long", strict, () => {
  const text = fc.oneof(fc.string(), fc.string({ minLength: 120, maxLength: 20_000 }));
  fc.assert(
    fc.property(fc.uniqueArray(fc.tuple(text, text), { selector: ([name]) => name }), (headers) => {
      assert.deepEqual([...decodeHeaders(encodeHeaders(headers))], headers);
    }),
    { numRuns: 300 },
  );
});

Deno.test("decodeHeaders() reads the status, and skips the size of the dynamic table", strict, () => {
  assert.deepEqual(decoded("20 88"), { ":status": "200" });
  assert.deepEqual(decoded("3fe1 1f 8e"), { ":status": "500" });
});

Deno.test(
  "a block that ends early, or refers to what was not agreed on, is an error, at once",
  strict,
  () => {
    for (const block of ["00", "0005 61", "0001 61", "0001 6105 62", "7f", "7fff ffff", "00ff ffff ff7f"]) {
      assert.throws(() => decoded(block), /ends early/, block);
    }
    for (const block of ["80", "be", "7e01 61"]) assert.throws(() => decoded(block), /not agreed on/, block);
  },
);
