/** Imports go one way: main → start, run → flow → core; etcd/ and postgres/ are the two doors to the outside. */
import assert from "node:assert/strict";
import { fromFileUrl } from "../support/paths.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const root = fromFileUrl("../..");

interface Edge {
  from: string;
  to: string;
  /** Only types: nothing of it is there at run time. */
  type: boolean;
}

/** Every import between files of the project, by their paths in it. */
async function imports(): Promise<Edge[]> {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", "main.ts"],
    cwd: root,
  }).output();
  assert.equal(code, 0);
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: {
      specifier: string;
      dependencies?: { code?: { specifier: string }; type?: { specifier: string } }[];
    }[];
  };
  const path = (specifier: string) => specifier.replace(/^.*?\/\/.*?(?=\/lib\/|\/main\.ts|\/sql\/)\//, "");
  return modules.filter(({ specifier }) => specifier.endsWith(".ts") && specifier.startsWith("file:"))
    .flatMap(({ specifier, dependencies = [] }) =>
      dependencies.map((dependency) => ({
        from: path(specifier),
        to: path((dependency.code ?? dependency.type)?.specifier ?? ""),
        type: dependency.code === undefined,
      }))
    ).filter(({ to }) => to.startsWith("lib/") || to.startsWith("sql/") || to === "main.ts");
}

const within = (...folders: string[]) => (path: string) => folders.some((folder) => path.startsWith(folder));

/** From where to where no import goes, and why. */
const walls: { why: string; from: (path: string) => boolean; to: (path: string) => boolean }[] = [
  { why: "nothing imports main.ts", from: () => true, to: (path) => path === "main.ts" },
  {
    why: "core/ is pure: it knows nothing but itself",
    from: within("lib/core/"),
    to: (path) => !path.startsWith("lib/core/"),
  },
  { why: "etcd/ does not know PostgreSQL", from: within("lib/etcd/"), to: within("lib/postgres/", "sql/") },
  { why: "postgres/ does not know etcd", from: within("lib/postgres/"), to: within("lib/etcd/") },
  {
    why: "the doors do not know what uses them",
    from: within("lib/etcd/", "lib/postgres/"),
    to: within("lib/flow/", "lib/run.ts", "lib/start.ts", "lib/stream.ts", "lib/config.ts"),
  },
  { why: "a flow does not know another flow", from: within("lib/flow/"), to: within("lib/flow/") },
  {
    why: "a flow does not know who runs it",
    from: within("lib/flow/"),
    to: within("lib/run.ts", "lib/start.ts"),
  },
  {
    why: "the loop does not know how the program was started",
    from: within("lib/run.ts"),
    to: within("lib/start.ts"),
  },
  {
    why: "only main.ts knows the commands",
    from: (path) => !within("main.ts", "lib/command/")(path),
    to: within("lib/command/"),
  },
  {
    why: "the settings know no server",
    from: within("lib/settings/"),
    to: (path) => !within("lib/settings/", "lib/errors.ts", "lib/log.ts")(path),
  },
  {
    why: "only a command asks what the servers lack",
    from: (path) => !within("lib/check/", "lib/command/")(path),
    to: within("lib/check/"),
  },
  {
    why: "the machine is a table",
    from: within("lib/machine.ts"),
    to: () => true,
  },
  {
    why: "the embedded servers stand alone",
    from: within("lib/embedded/"),
    to: (path) => !path.startsWith("lib/embedded/"),
  },
  {
    why: "only the command starts embedded servers",
    from: (path) => !within("lib/embedded/", "lib/command/start.ts", "lib/first_steps.ts")(path),
    to: within("lib/embedded/"),
  },
  {
    why: "only start makes the status page",
    from: (path) => !within("lib/page/", "lib/start.ts")(path),
    to: within("lib/page/"),
  },
  {
    why: "the status page looks, and steers nothing",
    from: within("lib/page/"),
    to: within("lib/flow/", "lib/run.ts", "lib/start.ts", "lib/stream.ts", "lib/etcd/", "lib/control.ts"),
  },
  { why: "SQL is for postgres/", from: (path) => !path.startsWith("lib/postgres/"), to: within("sql/") },
];

Deno.test("imports go one way: main, run, flow, core", strict, async () => {
  const all = await imports();
  assert.ok(
    all.some(({ from, to }) => from === "main.ts" && to === "lib/command/start.ts"),
    "main.ts was not read",
  );
  assert.ok(all.length > 50, `deno info shows only ${all.length} imports`);
  const broken = walls.flatMap(({ why, from, to }) =>
    all.filter((edge) => from(edge.from) && to(edge.to)).map((edge) => `${edge.from} → ${edge.to}: ${why}`)
  );
  assert.deepEqual(broken, []);
});

Deno.test("no import of a value goes round in a circle", strict, async () => {
  const edges = (await imports()).filter(({ type }) => !type);
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, trail: string[]) => {
    if (trail.includes(path)) return circles.push([...trail.slice(trail.indexOf(path)), path].join(" → "));
    if (done.has(path)) return;
    for (const { to } of edges.filter(({ from }) => from === path)) visit(to, [...trail, path]);
    done.add(path);
  };
  visit("main.ts", []);
  assert.deepEqual(circles, []);
});
