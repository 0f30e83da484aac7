/** Bytes and texts where a codec would go wrong; fast-check prints the seed of a run that fails. */

import { Buffer } from "node:buffer";
import fc from "fast-check";

const pieces = [
  ...[
    "\\",
    "\\x",
    "\\x4",
    "\\x41",
    "\\xff",
    "\\x5c",
    "\\x5cx41",
    "\\X41",
    "\\xAB",
    "x41",
    "41",
    "/",
    "a",
    "é",
    "€",
    "😀",
  ]
    .map((text) => Buffer.from(text)),
  ...[
    "\u0000",
    "\u0001",
    "\u007f",
    "\u0080",
    "\ud7ff",
    "\ue000",
    "\ufeff",
    "\uffff",
    "\u{10ffff}",
    "%",
    "_",
    "'",
  ]
    .map((text) => Buffer.from(text)),
  ...[
    "80",
    "bf",
    "c0",
    "c0af",
    "c1bf",
    "c3",
    "e0",
    "e080af",
    "e09fbf",
    "eda080",
    "edbfbf",
    "e282",
    "f0",
    "f08fbfbf",
  ]
    .map((hex) => Buffer.from(hex, "hex")),
  ...["f09f98", "f4908080", "f5808080", "f8888080", "ff", "fe"].map((hex) => Buffer.from(hex, "hex")),
];

/** Byte strings of such pieces, and of any byte. */
export const nastyBytes: fc.Arbitrary<Uint8Array> = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...pieces) },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 4 }) },
    ),
    { maxLength: 8 },
  )
  .map((parts) => Uint8Array.from(Buffer.concat(parts)));

/** Texts without NUL, with escapes that the codec would and would not write. */
export const nastyTexts: fc.Arbitrary<string> = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "\\",
        "\\x",
        "\\x5c",
        "\\x00",
        "\\xc3",
        "\\xa9",
        "\\xff",
        "\\xe2\\x82\\xac",
        "x41",
        "\\X41",
      ),
      fc.integer({ min: 0, max: 255 }).map((byte) => "\\x" + byte.toString(16).padStart(2, "0")),
      fc.string({ unit: "grapheme", maxLength: 3 }).map((text) => text.replaceAll("\0", "").toWellFormed()),
    ),
    { maxLength: 8 },
  )
  .map((parts) => parts.join(""));
