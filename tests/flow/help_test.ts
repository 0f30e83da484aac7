/** `--help` of each command, and the scripts that complete them. */
import assert from "node:assert/strict";
import { readCommands } from "../support/commands.ts";
import { runProgram } from "../support/program.ts";
import { tempDir } from "../support/servers.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

Deno.test("each command has examples, which name flags that it has", strict, async () => {
  const commands = await readCommands();
  assert.ok(commands.has("config check"), [...commands.keys()].join());
  for (const [path, { help, flags }] of commands) {
    if (path === "") continue;
    const [, examples] = help.split("\nExamples:\n");
    assert.ok(examples, `${path} --help has no examples (lib/command/examples.ts)`);
    const lines = examples.split("\n").filter((line) => line.startsWith("  etcd-pg-sync "));
    assert.ok(lines.length > 0);
    for (const line of lines) {
      assert.ok(line.startsWith(`  etcd-pg-sync ${path}`), line);
      for (const [flag] of line.matchAll(/(?<= )--?[a-z][a-z-]*/g)) {
        assert.ok(flags.has(flag), `${line}: ${flag}`);
      }
    }
  }
});

/** What bash offers for a line, with the cursor behind its last character. */
async function offered(script: string, line: string, cwd: string): Promise<string[]> {
  const words = line.split(" ").map((word) => `'${word}'`).join(" ");
  const ask = `source '${script}'; COMP_WORDS=(${words}); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
    complete -p etcd-pg-sync | grep -q _etcd_pg_sync || exit 1
    _etcd_pg_sync
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { success, stdout, stderr } = await new Deno.Command("bash", { args: ["-uc", ask], cwd }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert.ok(success, text(stderr));
  return text(stdout).split("\n").filter((word) => word !== "").sort();
}

Deno.test("bash completes commands, flags, choices and files", strict, async () => {
  await using dir = await tempDir();
  const { code, stdout } = await runProgram(["completion", "bash"]);
  assert.equal(code, 0);
  const script = `${dir.path}/completion`;
  await Deno.writeTextFile(script, stdout);
  const at = (line: string) => offered(script, line, dir.path);
  assert.ok((await at("etcd-pg-sync ")).includes("start"));
  assert.deepEqual(await at("etcd-pg-sync conf"), ["config"]);
  assert.deepEqual(await at("etcd-pg-sync config ch"), ["check"]);
  assert.deepEqual(await at("etcd-pg-sync config check --format "), ["json", "text"]);
  assert.deepEqual(await at("etcd-pg-sync start --max-t"), ["--max-txn-ops"]);
  assert.deepEqual(await at("etcd-pg-sync start --config "), ["completion"]);
  assert.deepEqual(await at("etcd-pg-sync start --stream "), [], "a value that nobody knows");
  assert.deepEqual(await at("etcd-pg-sync completion z"), ["zsh"]);
});

Deno.test("the scripts for zsh and fish name the same commands and flags", strict, async () => {
  for (const shell of ["zsh", "fish"]) {
    const { stdout } = await runProgram(["completion", shell]);
    for (const word of ["check", "max-txn-ops", "json"]) {
      assert.ok(stdout.includes(word), `${shell}: ${word}`);
    }
    if (shell === "zsh") assert.match(stdout, /^#compdef etcd-pg-sync\n/, "what `compinit` looks for");
  }
});
