/** Which build of the program this is. */
import { fileURLToPath } from "node:url";
import manifest from "../deno.json" with { type: "json" };
import build from "./build.json" with { type: "json" }; // deploy/release/compile.ts fills it

export const { version } = manifest;

/** For `--version` and bug reports: `0.1.0 (commit 43a9581a1b2c, Deno 2.6.10)`. */
export function versionText(): string {
  const commit = build.commit ?? checkedOut();
  const from = commit === undefined ? "from its sources" : `commit ${commit}`;
  return `${version} (${from}, Deno ${Deno.version.deno})`;
}

/** The commit of this folder, where it is a checkout of its own and git may be run. */
function checkedOut(): string | undefined {
  if (Deno.permissions.querySync({ name: "run", command: "git" }).state !== "granted") return undefined;
  const root = fileURLToPath(new URL("..", import.meta.url));
  const describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
  try {
    const args = [`--git-dir=${root}.git`, `--work-tree=${root}`, ...describe];
    const { success, stdout } = new Deno.Command("git", { args, stderr: "null" }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined; // there is no git
  }
}
