/** The first minute of README.md, statement by statement: what it says is what happens. */
import assert from "node:assert/strict";
import { withDiagram } from "../support/readme.ts";
import { eventually, makeWorld, type Row } from "../support/world.ts";
import { findEtcd } from "../../lib/embedded/embedded.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";

const readme = Deno.readTextFileSync(new URL("../../README.md", import.meta.url));

interface Step {
  language: "sh" | "sql";
  command: string;
  /** Lines that the README shows under it. */
  shown: string[];
}

/** The steps of the blocks under a heading; a comment under a command is its output. */
function steps(heading: string): Step[] {
  const section = readme.split(`## ${heading}\n`)[1].split("\n## ")[0];
  return [...section.matchAll(/```(sh|sql)\n([\s\S]*?)```/g)].flatMap(([, language, body]) => {
    const found: Step[] = [];
    let open = "";
    for (const line of body.trim().split("\n")) {
      const output = /^(?:--|#) (.*)$/.exec(line);
      if (output) {
        found.at(-1)!.shown.push(squeeze(output[1]));
      } else {
        open += (open && "\n") + line;
        if (language === "sh" || line.endsWith(";")) {
          found.push({ language: language as Step["language"], command: open, shown: [] });
          open = "";
        }
      }
    }
    assert.equal(open, "", "a statement without an end");
    return found;
  });
}

function squeeze(line: string): string {
  return line.trim().replaceAll(/\s+/g, " ");
}

/** A row as psql shows it. */
function asLine(row: Row): string {
  return squeeze(
    Object.values(row).map((v) => v === null ? "" : typeof v === "boolean" ? String(v)[0] : String(v)).join(
      " | ",
    ),
  );
}

Deno.test(
  "the first minute of the README is true",
  { sanitizeOps: true, sanitizeResources: true },
  async () => {
    await using world = await makeWorld({ prefix: "/" });
    world.program();
    await world.untilState("streaming");
    const { etcdctl } = await findEtcd(defaultSearch(), { info() {}, warn() {} });
    const user = world.session();

    async function run(step: Step): Promise<string[]> {
      if (step.language === "sql") return (await user.sql(step.command)).map(asLine);
      const [command, ...args] = step.command.split(" ");
      assert.equal(command, "etcdctl");
      const endpoint = new URL(world.etcdDsn.replace("etcd:", "http:")).host;
      const { stdout, success } = await new Deno.Command(etcdctl ?? "etcdctl", {
        args,
        env: { ETCDCTL_ENDPOINTS: endpoint, ETCDCTL_API: "3" },
      }).output();
      assert.ok(success, step.command);
      return new TextDecoder().decode(stdout).trim().split("\n").map(squeeze);
    }

    const all = steps("A first minute");
    assert.ok(
      all.some((s) => s.language === "sql" && s.shown.length) &&
        all.some((s) => s.language === "sh" && s.shown.length),
    );
    for (const step of all) {
      if (step.shown.length === 0) await run(step);
      else {
        // it takes a moment to travel
        await eventually(async () => {
          const lines = await run(step);
          for (const shown of step.shown) {
            assert.ok(
              lines.some((line) => line.startsWith(shown)),
              `${step.command}\nshows ${lines}\nnot ${shown}`,
            );
          }
          return true;
        });
      }
    }
  },
);

Deno.test("README shows the machine as it is", () => {
  assert.equal(withDiagram(readme), readme, "run `deno task diagram`");
});
