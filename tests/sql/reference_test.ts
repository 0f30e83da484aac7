/** docs/sql.md is the schema as people meet it: names, types, signatures, settings and errors. */
import assert from "node:assert/strict";
import { CODES } from "../../lib/core/codes.ts";
import { fromFileUrl } from "../support/paths.ts";
import { installed, strict } from "../support/schema.ts";
import { makeWorld } from "../support/world.ts";

const root = fromFileUrl("../..");
const page = Deno.readTextFileSync(`${root}/docs/sql.md`);

/** Of these all columns are for people; of other tables the page shows some. */
const SHOWN_WHOLE = ["etcd", "etcd_history", "etcd_wal", "etcd_sync_event", "etcd_sync_resync"];

/** Text between backticks in the first cells of the tables of a part of the page. */
function rows(part: string, cells: number): string[][] {
  const lines = part.split("\n").filter((line) => line.startsWith("| `"));
  return lines.map((line) =>
    line.split(" | ").slice(0, cells).map((cell) => cell.replace(/^\|/, "").trim().replaceAll("`", ""))
  );
}

function section(heading: string): string {
  const [, text] = page.split(`\n## ${heading}\n`);
  assert.ok(text, heading);
  return text.split("\n## ")[0];
}

Deno.test("docs/sql.md shows the columns as they are", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const parts = section("Views and tables").split("\n### `").slice(1);
  assert.ok(parts.length > SHOWN_WHOLE.length);
  for (const part of parts) {
    const table = part.split("`")[0];
    const shown = rows(part.split("\n| kind")[0], 2);
    const columns = await world.sql(
      `select attname, format_type(atttypid, atttypmod) as type from pg_attribute
       where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`,
      [table],
    );
    const actual = columns.map(({ attname, type }) => [attname, type])
      .filter(([name]) => SHOWN_WHOLE.includes(table) || shown.some(([column]) => column === name));
    assert.deepEqual(shown, actual, table);
  }
});

Deno.test("docs/sql.md shows each function that is for people, with its signature", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const functions = await world.sql(
    `select proname || '(' || pg_get_function_arguments(oid) || ')' as signature, pg_get_function_result(oid) as result
     from pg_proc where pronamespace = 'public'::regnamespace and obj_description(oid, 'pg_proc') is not null`,
  );
  const actual = functions.map(({ signature, result }) => [signature.replaceAll(/::\w+/g, ""), result]);
  assert.deepEqual(rows(section("Functions"), 2).sort(), actual.sort());
});

Deno.test("docs/sql.md names each setting of a transaction and each SQLSTATE", strict, () => {
  const sources = [...Deno.readDirSync(`${root}/sql`)].filter(({ name }) => name.endsWith(".sql"))
    .map(({ name }) => Deno.readTextFileSync(`${root}/sql/${name}`)).join("\n");
  const counter = "etcd_sync.deletes"; // the program's own
  const settings = new Set(
    [...sources.matchAll(/current_setting\('(etcd_sync\.\w+)'/g)].map(([, name]) => name)
      .filter((name) => name !== counter),
  );
  assert.deepEqual(rows(section("Settings of a transaction"), 1).flat().sort(), [...settings].sort());
  const shown = [...section("Errors").matchAll(/^\| \[`(ZE\d+)`\]/gm)].map(([, code]) => code);
  assert.deepEqual(shown, Object.keys(CODES).filter((code) => code.startsWith("ZE")));
});

/** The text of each file under a folder. */
function sourcesOf(folder: string): string {
  return [...Deno.readDirSync(folder)].map(({ name, isDirectory }) =>
    isDirectory ? sourcesOf(`${folder}/${name}`) : Deno.readTextFileSync(`${folder}/${name}`)
  ).join("\n");
}

Deno.test("docs/sql.md names kinds of events that are written", strict, () => {
  const sources = sourcesOf(`${root}/lib`) + sourcesOf(`${root}/sql`);
  const kinds = rows(page.split("\n| kind")[1].split("\n### ")[0], 1).flatMap(([cell]) => cell.split(", "));
  assert.ok(kinds.length > 10);
  for (const kind of kinds) assert.match(sources, new RegExp(`["']${kind}["']`), kind);
});
