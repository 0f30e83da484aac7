/**
 * The `compile` task: the program as one file, with no more rights than it needs.
 *
 * ```sh
 * deno task compile                                        # build/etcd-pg-sync, for this machine
 * deno task compile aarch64-unknown-linux-gnu build/arm64  # another target, another file
 * ```
 *
 * `deno compile` loads the runtime that it embeds, denort, from dl.deno.land, or takes the one that `DENORT_BIN` names. That
 * has to be of the target, else it is left aside, and of the version of Deno.
 *
 * It is compiled from a copy whose build.json names the commit (`COMMIT`, else that of git), and which esbuild has made a
 * few files of, with the packages: they are read in half of the time that it takes to find some hundreds.
 */
import * as esbuild from "esbuild";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const stage = join(root, "build", "stage");

/**
 * It connects to whatever it is told to, and reads files and variables of any name. It writes only to systemd's socket,
 * the system's or a user's, and has its own beside it (lib/systemd.ts); it starts no other program.
 */
const PERMISSIONS = [
  "--no-prompt",
  "--allow-net",
  "--allow-env",
  "--allow-read",
  "--allow-write=/run/systemd/notify,/run/user,/run/etcd-pg-sync",
  "--allow-sys=uid,gid,hostname,osUptime",
];

/** What reads files of its own while it runs stays a package: etcd3 its protocol file. */
const PACKAGES = ["etcd3"];
/** Of packages that are made for Node.js. */
const REQUIRE =
  'import { createRequire as requireOf } from "node:module";\nconst require = requireOf(import.meta.url);';

interface Module {
  specifier: string;
  dependencies?: { specifier: string; code?: unknown }[];
}

/** The machine of an ELF file, two bytes at this place. */
const MACHINE_AT = 18;
const MACHINES: Record<number, string> = { 0x3e: "x86_64", 0xb7: "aarch64" };

const [target = Deno.build.target, output = join("build", "etcd-pg-sync")] = Deno.args;
const denort = await ownRuntime();
const sources = ["main.ts", "lib", "sql", "deno.lock"];
await Deno.remove(stage, { recursive: true }).catch(() => {}); // of the last time, if there is one
await Deno.mkdir(stage, { recursive: true });
for (const source of sources) await run("cp", "-r", join(root, source), stage);
await writeJson("lib/build.json", { commit: Deno.env.get("COMMIT") || await commit() });
const config = JSON.parse(await Deno.readTextFile(join(root, "deno.json")));
const imported = await packages();
await writeConfig(
  "auto",
  (name) => imported.has(name) || [...imported].some((one) => one.startsWith(`${name}/`)),
);
await deno("install", "--quiet");
await bundle();
await Deno.remove(join(stage, "node_modules"), { recursive: true }); // all of it would be embedded
await writeConfig("none", (name) => PACKAGES.includes(name));
await Deno.mkdir(dirname(resolve(root, output)), { recursive: true });
await deno(
  "compile",
  "--quiet",
  "--no-check", // by the gate; the copy lacks the types of packages
  ...PERMISSIONS,
  // else it runs what it finds in a file of that name in /tmp, whoever wrote it; and it starts no sooner for it
  "--no-code-cache",
  "--target",
  target,
  "--output",
  resolve(root, output),
  "bundle/main.js",
);

if (target === Deno.build.target) {
  await run(resolve(root, output), "--version").catch((error) =>
    refuse(`what was made does not run: ${error.message.split("\n")[0]}`)
  );
}

/** One line, and the end. */
function refuse(why: string): never {
  const from =
    `the runtime is that of dl.deno.land, or DENORT_BIN, which has to be of Deno ${Deno.version.deno}`;
  console.error(`compile: Cannot compile for '${target}': ${why}; ${from}`);
  Deno.exit(1);
}

/** DENORT_BIN, if it is one for the target. */
async function ownRuntime(): Promise<string | undefined> {
  const path = Deno.env.get("DENORT_BIN");
  if (!path) return undefined;
  const file = await Deno.readFile(path).catch((error) =>
    refuse(`wanted a denort that can be read as DENORT_BIN (${error.name}), got '${path}'`)
  );
  const machine = MACHINES[file[MACHINE_AT] ?? 0];
  if (machine && target.startsWith(`${machine}-`)) return path;
  console.error(`compile: DENORT_BIN '${path}' is not for '${target}', so Deno loads its own`);
}

/** The copy's deno.json, with some of the packages. */
async function writeConfig(
  nodeModulesDir: "auto" | "none",
  wanted: (name: string) => boolean,
): Promise<void> {
  const imports = Object.entries(config.imports).filter(([name]) => wanted(name));
  await writeJson("deno.json", {
    ...config,
    imports: Object.fromEntries(imports),
    nodeModulesDir,
    tasks: {},
  });
}

/** main.ts and all that it needs as `bundle/`: what is loaded later, or only by some commands, in files of its own. */
async function bundle(): Promise<void> {
  await esbuild.build({
    absWorkingDir: stage,
    entryPoints: ["main.ts"],
    outdir: "bundle",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "esnext",
    external: [...PACKAGES, "pg-native"], // pg tries it, and goes on without
    banner: { js: REQUIRE },
    logLevel: "warning",
  });
  await esbuild.stop();
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await Deno.writeTextFile(join(stage, path), JSON.stringify(value, null, 2));
}

async function commit(): Promise<string | null> {
  const describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
  const found = await run("git", "-C", root, ...describe).catch(() => ""); // no git, or no checkout
  return found.trim() || null;
}

/** The names that main.ts and what it imports take from deno.json. */
async function packages(): Promise<Set<string>> {
  const { modules } = JSON.parse(await run(Deno.execPath(), "info", "--json", join(root, "main.ts")));
  return new Set(
    (modules as Module[]).flatMap(({ dependencies = [] }) =>
      dependencies.filter(({ code }) => code).map(({ specifier }) => specifier)
    ),
  );
}

/** What the command writes. @throws where it fails */
async function run(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!success) throw new Error(`${command} ${args.join(" ")}: ${text(stderr)}`);
  return text(stdout);
}

async function deno(...args: string[]): Promise<void> {
  const { DENORT_BIN: _, ...others } = Deno.env.toObject();
  const env = denort === undefined ? others : { ...others, DENORT_BIN: denort };
  const options = { args, cwd: stage, env, clearEnv: true };
  const { code } = await new Deno.Command(Deno.execPath(), options).spawn().status;
  if (code !== 0) refuse(`'deno ${args[0]}' has failed`);
}
