/** What a release is made of, as far as no binary is needed: `deploy/release`. */
import assert from "node:assert/strict";
import { NAMES } from "../../lib/settings/table.ts";
import { fromFileUrl } from "../support/paths.ts";
import { runProgram } from "../support/program.ts";
import { strict } from "../support/run.ts";
import { tempDir } from "../support/servers.ts";

const root = fromFileUrl("../..");

async function run(command: string, args: string[], cwd = root) {
  const env = { NO_COLOR: "1", LC_ALL: "C.UTF-8" };
  const { code, stdout, stderr } = await new Deno.Command(command, { args, cwd, env }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

const deno = (...args: string[]) => run(Deno.execPath(), ["run", "--quiet", ...args]);

Deno.test("the manual page has each command and each setting", strict, async () => {
  const flags = ["--no-prompt", "--allow-read", "--allow-env", "--allow-sys"];
  const { code, stdout, stderr } = await deno(...flags, "deploy/release/man.ts");
  assert.equal(code, 0, stderr);
  const { stdout: help } = await runProgram(["--help"]);
  const commands = [...help.split("\nCommands:\n")[1].matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name);
  assert.ok(commands.length > 5);
  for (const name of commands.filter((name) => name !== "help")) {
    assert.ok(stdout.includes(`\n.SS ${name}\n`), `command ${name}`);
  }
  for (const name of NAMES) {
    assert.ok(stdout.includes(`\n\\fB${name.replaceAll("-", "\\-")}\\fR\n`), `setting ${name}`);
  }
  assert.doesNotMatch(stdout, /undefined|\[object/);
});

Deno.test(
  "the bill of materials has what the program imports, and nothing of the tests",
  strict,
  async () => {
    const { code, stdout, stderr } = await run(Deno.execPath(), ["task", "--quiet", "sbom", "1.2.3"]);
    assert.equal(code, 0, stderr); // it is validated there
    const { components } = JSON.parse(stdout) as { components: { name: string; version: string }[] };
    const names = components.map(({ name }) => name);
    for (const name of ["pg", "etcd3", "@grpc/grpc-js", "protobufjs"]) assert.ok(names.includes(name), name);
    for (const name of ["testcontainers", "fast-check"]) assert.ok(!names.includes(name), name);
    assert.equal(components.find(({ name }) => name === "deno")!.version, "1.2.3");
  },
);

Deno.test("compiling is refused where DENORT_BIN names no file", strict, async () => {
  const script = `${root}/deploy/release/compile.ts`;
  const args = ["run", "--quiet", "--no-prompt", "--allow-read", "--allow-env", script];
  const env = { DENORT_BIN: "/nowhere/denort", NO_COLOR: "1" };
  const { code, stderr } = await new Deno.Command(Deno.execPath(), { args, env }).output();
  assert.equal(code, 1);
  assert.match(
    new TextDecoder().decode(stderr),
    /^compile: Cannot compile for '\S+': wanted a denort .* \(NotFound\), got '\/nowhere\/denort'; [^\n]+\n$/,
  );
});

Deno.test("a release is refused without a version, notes, or a committed tree", strict, async () => {
  await using dir = await tempDir();
  const at = async (version: string, notes: string) => {
    await Deno.writeTextFile(`${dir.path}/deno.json`, `{\n  "version": "${version}",\n}\n`);
    await Deno.writeTextFile(`${dir.path}/CHANGELOG.md`, notes);
    return await run("bash", ["deploy/release/release.sh", "amd64"], dir.path);
  };
  await Deno.mkdir(`${dir.path}/deploy/release`, { recursive: true });
  await Deno.copyFile(`${root}/deploy/release/release.sh`, `${dir.path}/deploy/release/release.sh`);
  await run("git", ["init", "-q"], dir.path);
  const notes = "# Changelog\n\n## [Unreleased]\n\n- Later\n\n## [1.2.0] - 2026-01-02\n\n- It works\n";
  const refused: [version: string, notes: string, why: RegExp][] = [
    ["1.2", notes, /^release: Cannot release version '1.2' of deno.json: wanted a semantic version/],
    [
      "1.3.0",
      notes,
      /^release: Cannot release '1.3.0': CHANGELOG.md has nothing below a line '## \[1.3.0\]'$/,
    ],
    ["1.3.0", "## [1.3.0]\n\n## [1.2.0]\n\n- It works\n", /CHANGELOG.md has nothing below/],
    ["1.2.0", notes, /^release: Cannot release '1.2.0': there are changes that are not committed$/],
  ];
  for (const [version, text, why] of refused) {
    const { code, stderr } = await at(version, text);
    assert.equal(code, 1);
    assert.match(stderr.trimEnd(), why);
  }
});
