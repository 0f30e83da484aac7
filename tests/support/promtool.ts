/** Prometheus' promtool: the machine's own, else Debian's, unpacked into the cache. */

import { join } from "node:path";
import { fillFolder } from "../../lib/embedded/fetch.ts";
import { unpackDebian } from "../../lib/embedded/fetch_debian.ts";
import { defaultSearch, isFile, onPath } from "../../lib/embedded/search.ts";

/** Runs it to its end, with `input` on its standard input; returns all that it wrote. */
export async function promtool(args: string[], { cwd, input }: { cwd?: string; input?: string } = {}) {
  const child = new Deno.Command(await find(), {
    args,
    cwd,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  const written = writer.write(new TextEncoder().encode(input ?? "")).then(() => writer.close());
  const [{ code, stdout, stderr }] = await Promise.all([child.output(), written]);
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, said: text(stdout) + text(stderr) };
}

async function find(): Promise<string> {
  const search = defaultSearch();
  const installed = await onPath("promtool", search.path);
  if (installed) return installed;
  const folder = join(search.cache, "prometheus-debian");
  const binary = join(folder, "usr/bin/promtool");
  if (!await isFile(binary)) await fillFolder(folder, fetchPackage);
  return binary;
}

async function fetchPackage(folder: string): Promise<void> {
  const why = await unpackDebian({ apt: "apt-get", dpkg: "dpkg" }, ["prometheus"], folder);
  if (why) throw new Error(`Cannot fetch promtool: ${why}; install it, so that 'promtool' is on PATH`);
}
