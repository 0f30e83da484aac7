/** Debian's packages: downloaded with apt and unpacked, not installed. */

import { join } from "node:path";
import { run } from "./fetch.ts";

/** Unpacks the packages into the folder. Returns what went wrong, in words; undefined: nothing. */
export async function unpackDebian(
  tools: { apt: string; dpkg: string },
  packages: string[],
  folder: string,
): Promise<string | undefined> {
  const why = await download(tools.apt, packages, folder);
  if (why) return `'apt-get download' said '${why}'`;
  const files = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".deb"));
  for (const { name } of files) {
    const why = await run(tools.dpkg, ["-x", name, "."], folder);
    if (why) return `'dpkg -x ${name}' said '${why}'`;
    await Deno.remove(join(folder, name));
  }
}

/** apt's lists may be missing or too old to name a file that is still there: then, and only then, fetch them. */
async function download(apt: string, packages: string[], folder: string): Promise<string | undefined> {
  const sandbox = Deno.uid() === 0 ? ["-o", "APT::Sandbox::User=root"] : [];
  const args = [...sandbox, "download", ...packages];
  const why = await run(apt, args, folder);
  if (!why) return undefined;
  const noLists = await run(apt, [...sandbox, "update"], folder);
  return noLists ? why : await run(apt, args, folder);
}
