/** Fetched servers are put into the cache whole or not at all. */

import { dirname } from "node:path";

/** Lets `fill` fill a new folder beside `folder`, and renames it to `folder` when it is complete. */
export async function fillFolder(folder: string, fill: (fresh: string) => Promise<void>): Promise<void> {
  await Deno.mkdir(dirname(folder), { recursive: true });
  const fresh = await Deno.makeTempDir({ dir: dirname(folder), prefix: "new-" });
  try {
    await Deno.chmod(fresh, 0o755);
    await fill(fresh);
    await rename(fresh, folder);
  } finally {
    await Deno.remove(fresh, { recursive: true }).catch(ignoreMissing);
  }
}

/** Another process may have been faster; what it fetched is as good. */
async function rename(from: string, to: string): Promise<void> {
  try {
    await Deno.rename(from, to);
  } catch (error) {
    if (!await Deno.stat(to).catch(() => undefined)) throw error;
  }
}

export function ignoreMissing(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** Runs a program to its end; undefined if all went well, else what it complained of, or why it did not run. */
export async function run(command: string, args: string[], cwd: string): Promise<string | undefined> {
  try {
    const { success, code, stderr } = await new Deno.Command(command, { args, cwd, stdin: "null" }).output();
    return success ? undefined : complaint(new TextDecoder().decode(stderr)) || `exit code ${code}`;
  } catch (error) {
    return (error as Error).message;
  }
}

/** npm says it in the first lines, apt in lines that begin with `E:`. */
function complaint(text: string): string {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const errors = lines.filter((line) => /error|^E:/i.test(line));
  return (errors.length ? errors : lines).slice(0, 3).join("; ");
}
