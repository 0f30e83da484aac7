/** What is made from the tables is as it would be made now. */
import assert from "node:assert/strict";
import { readPage, withSettings } from "../support/settings_doc.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

Deno.test("docs/configuration.md shows the settings as they are", strict, () => {
  assert.equal(readPage(), withSettings(readPage()), "if it is meant: `deno task settings`");
});
