/** Every error has a code, every code its entry in docs/errors.md (`deno task errors` renews it). */
import assert from "node:assert/strict";
import { CODE_GROUPS, CODES } from "../../lib/core/codes.ts";
import { codeOf, EXIT, exitKind, Fatal, kindOf, LostPlace } from "../../lib/errors.ts";
import { EtcdError, STATUS } from "../../lib/etcd/error.ts";
import { fromFileUrl } from "../support/paths.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const root = fromFileUrl("../..");

const INTRODUCTION = `# Errors

Each error and each condition that the program tells of has a code that stays. It stands at the end of the line that a
command prints, as \`code\` in the log, and with each finding of \`status\`. The first digit of an \`EPS\` code is the
exit code; 0 is done, 5 means that \`validate\` has found differences.`;

async function page(): Promise<string> {
  const groups = CODE_GROUPS.map(({ title, codes }) => {
    const entries = Object.entries(codes).map(([code, { name, meaning, advice }]) =>
      `### ${code}\n\n_${name}_. ${meaning}\n\n**What to do:** ${advice}`
    );
    return `## ${title}\n\n${entries.join("\n\n")}`;
  });
  const text = `${INTRODUCTION}\n\n${groups.join("\n\n")}\n`;
  const fmt = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", "md", "-"],
    cwd: root,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = fmt.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  return new TextDecoder().decode((await fmt.output()).stdout);
}

Deno.test("docs/errors.md is the table", strict, async () => {
  const path = `${root}/docs/errors.md`;
  const wanted = await page();
  if (Deno.env.get("ETCD_PG_SYNC_TEST_UPDATE")) await Deno.writeTextFile(path, wanted);
  assert.equal(await Deno.readTextFile(path), wanted, "renew it by 'deno task errors'");
});

/** The text of each file under a folder of the project, but of these. */
function sources(folder: string, without: string[]): string[] {
  return [...Deno.readDirSync(`${root}/${folder}`)].flatMap(({ name, isDirectory }) => {
    const path = `${folder}/${name}`;
    if (without.includes(path)) return [];
    return isDirectory ? sources(path, without) : [Deno.readTextFileSync(`${root}/${path}`)];
  });
}

Deno.test("each code in the sources is in the table, and each of the table is used", strict, () => {
  const text = [...sources("lib", ["lib/core/codes.ts"]), ...sources("sql", [])].join("\n");
  const used = new Set(text.match(/\b(?:EPS-|ZE)\d{3}\b/g));
  const table = Object.keys(CODES);
  assert.deepEqual([...used].filter((code) => !table.includes(code)), [], "without an entry");
  assert.deepEqual(table.filter((code) => !used.has(code)), [], "used nowhere");
});

Deno.test("each warning in the log has a code", strict, () => {
  const text = sources("lib", ["lib/embedded", "lib/troubles.ts"]).join("\n");
  const calls = text.match(/\blog(?:\.warn|\.error|\[level\])\([^;]*\);|\btroubles\.tell\([^;]*\)[;,]/g)!;
  assert.ok(calls.length > 10, `only ${calls.length} were found`);
  const without = calls.filter((call) =>
    !/\bcode[:,]|\bfields,/.test(call) && !call.includes('"state changed"')
  );
  assert.deepEqual(without, []);
});

Deno.test("names are there once, and no sentence is empty", strict, () => {
  const entries = Object.values(CODES);
  assert.equal(new Set(entries.map(({ name }) => name)).size, entries.length);
  for (const { name, meaning, advice } of entries) {
    assert.match(name, /^[a-z-]+$/);
    assert.match(meaning, /[.?]$/, name);
    assert.match(advice, /[.?]$/, name);
  }
});

Deno.test("an error's code is decided by its own code, never by its text", strict, () => {
  const coded = (code: string) => Object.assign(new Error("x"), { code });
  const cases: [unknown, string][] = [
    [new Fatal("EPS-101", "x"), "EPS-101"],
    [new Fatal("configuration", "x"), "EPS-100"],
    [new Fatal("connection", "x"), "EPS-200"],
    [new Fatal("permission", "x"), "EPS-300"],
    [new Fatal("runtime", "x"), "EPS-400"],
    [new LostPlace("x"), "EPS-701"],
    [coded("ECONNREFUSED"), "EPS-201"],
    [new AggregateError([coded("ECONNREFUSED")]), "EPS-201"],
    [coded("28P01"), "EPS-301"],
    [coded("42501"), "EPS-302"],
    [coded("3D000"), "EPS-203"],
    [coded("25006"), "EPS-204"],
    [coded("55P03"), "EPS-403"],
    [coded("25001"), "EPS-401"],
    [coded("ZE100"), "EPS-401"],
    [new EtcdError(STATUS.UNAVAILABLE, "x"), "EPS-211"],
    [new EtcdError(STATUS.PERMISSION_DENIED, "x"), "EPS-312"],
    [new EtcdError(STATUS.INVALID_ARGUMENT, "permission denied"), "EPS-402"],
    [new Error("permission denied"), "EPS-400"],
  ];
  for (const [error, code] of cases) {
    assert.equal(codeOf(error), code);
    assert.equal(exitKind(codeOf(error)), kindOf(error));
  }
});

Deno.test("the first digit is the exit code; what has none ends as runtime", strict, () => {
  assert.equal(EXIT[exitKind("EPS-101")], 1);
  assert.equal(EXIT[exitKind("EPS-602")], 6);
  assert.equal(exitKind("EPS-701"), "runtime");
  assert.equal(exitKind("ZE001"), "runtime");
});
