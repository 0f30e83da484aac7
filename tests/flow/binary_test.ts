/** What only the compiled binary is held to, and what it shares with the sources. */
import assert from "node:assert/strict";
import manifest from "../../deno.json" with { type: "json" };
import { fromFileUrl } from "../support/paths.ts";
import { refusal, runProgram, testedBinary } from "../support/program.ts";
import { streaming, strict } from "../support/run.ts";
import { tempDir } from "../support/servers.ts";
import { eventually, makeWorld } from "../support/world.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

async function versionOf(folder: string): Promise<string> {
  const args = [
    "run",
    "--no-prompt",
    "--allow-env",
    "--allow-read",
    "--allow-sys",
    "--allow-run=git",
    "main.ts",
  ];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args, "--version"],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  assert.ok(success, text(stderr));
  return text(stdout);
}

Deno.test("--version names the version and the commit", strict, async () => {
  const { code, stdout } = await runProgram(["--version"]);
  assert.equal(code, 0);
  const [, version, from] = /^etcd-pg-sync (\S+) \((.+), Deno \d+\.\d+\.\d+\S*\)\n$/.exec(stdout)!;
  assert.equal(version, manifest.version);
  assert.match(from, testedBinary ? /^commit / : /^commit |^from its sources$/);
});

Deno.test("--version of a plain folder names no commit, of a checkout its own", strict, async () => {
  await using outer = await tempDir();
  const git = (...args: string[]) =>
    run("git", "-C", outer.path, "-c", "user.name=t", "-c", "user.email=t", ...args);
  await git("init", "-q");
  await git("commit", "-q", "--allow-empty", "-m", "of another project, around the plain folder");
  const plain = `${outer.path}/plain`;
  await Deno.mkdir(plain);
  for (const part of ["main.ts", "lib", "sql", "deno.json", "deno.lock"]) {
    await run("cp", "-r", `${fromFileUrl("../..")}/${part}`, plain);
  }
  assert.match(await versionOf(plain), / \(from its sources, /);
  await run("mv", `${outer.path}/.git`, plain);
  const head = (await run("git", "-C", plain, "rev-parse", "--short=12", "HEAD")).trim();
  assert.ok((await versionOf(plain)).includes(` (commit ${head}`));
});

Deno.test("--embedded is refused where no program may be started", strict, async () => {
  const wanted =
    /^etcd-pg-sync: Cannot start '--embedded': this build has no right to start other programs; give '--postgres-dsn' and /;
  if (testedBinary) {
    const { code, stderr } = await runProgram(["start", "--embedded"]);
    assert.match(refusal(stderr), wanted);
    return assert.equal(code, 1);
  }
  const args = [
    "run",
    "--quiet",
    "--no-prompt",
    "--allow-net",
    "--allow-env",
    "--allow-read",
    "--allow-sys",
    "main.ts",
  ];
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args, "start", "--embedded"],
    cwd: fromFileUrl("../.."),
  }).output();
  assert.match(refusal(text(stderr)), wanted);
  assert.equal(code, 1);
});

async function run(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args }).output();
  assert.ok(success, text(stderr));
  return text(stdout);
}

// `deno compile` lets a program run the compiled code that it finds in /tmp under its name: whoever put it there
if (testedBinary) {
  Deno.test("the binary runs no code of a file in the folder for temporary ones", strict, async () => {
    await using dir = await tempDir();
    const { stderr } = await new Deno.Command(testedBinary!, {
      args: ["--version"],
      env: { TMPDIR: dir.path, DENO_LOG: "debug" },
    }).output();
    assert.match(text(stderr), /Code cache disabled/);
  });
}

// grpc-js took a ping that node:http2 could not send, every ten seconds, for a dead connection
Deno.test("a quiet connection to etcd stays", strict, async () => {
  await using world = await makeWorld();
  const program = await streaming(world);
  const proofs = async () => (await world.state())!.fresh_at as Date;
  const first = await eventually(proofs);
  await eventually(async () => Number(await proofs()) - Number(first) > 12_000, { timeoutMs: 30_000 });
  const warned = program.logs.filter(({ level }) => level === "warn").map(({ code }) => code);
  assert.deepEqual(warned.filter((code) => code !== "EPS-711"), []); // of known bugs of this version of etcd
});
