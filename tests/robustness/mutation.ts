/**
 * The program without one of its guards: a patch from mutations/, applied to a temporary copy of the tree. Its first line
 * may name the faults that show it (`faults: a,b`), where all of them together come to those too seldom for ten minutes.
 */
import { join } from "node:path";
import { fromFileUrl } from "../support/paths.ts";

const ROOT = fromFileUrl("../..");
const FOLDER = join(ROOT, "tests/robustness/mutations");
/** What the program needs to run. */
const PARTS = ["main.ts", "lib", "sql", "deno.json", "deno.lock"];

/** Names, without `.patch`. */
export async function mutations(): Promise<string[]> {
  const files = await Array.fromAsync(Deno.readDir(FOLDER));
  return files.map(({ name }) => name.replace(/\.patch$/, "")).sort();
}

/** The faults that the patch names. */
export async function faultsFor(name: string): Promise<string | undefined> {
  const patch = await Deno.readTextFile(join(FOLDER, `${name}.patch`));
  return /^faults: (.+)$/m.exec(patch)?.[1];
}

/** @throws where there is no such patch, or the tree has moved on and it no longer applies */
export async function mutated(name: string): Promise<AsyncDisposable & { root: string }> {
  if (!(await mutations()).includes(name)) {
    throw new Error(`Cannot mutate: there is no '${name}', wanted one of ${(await mutations()).join(", ")}`);
  }
  const root = await Deno.makeTempDir({ prefix: "etcd-pg-sync-mutation-" });
  await run("cp", ["-r", ...PARTS.map((part) => join(ROOT, part)), root], ROOT);
  await run("patch", ["-p1", "--fuzz=0", "-i", join(FOLDER, `${name}.patch`)], root);
  return { root, [Symbol.asyncDispose]: () => Deno.remove(root, { recursive: true }) };
}

async function run(command: string, args: string[], cwd: string): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args, cwd }).output();
  if (success) return;
  throw new Error(
    `Cannot run '${command}': ${new TextDecoder().decode(stdout)}${new TextDecoder().decode(stderr)}`,
  );
}
