/**
 * What the docs show is what happens: the blocks of a section, command by command, on a world.
 *
 * A block of `sql` is for psql, one of `sh` has calls of etcdctl. A comment under a command is what it prints, each line
 * a row's beginning; `ERROR:  …` is a refusal. `\gset` keeps the row's columns for `:name`, as in psql.
 */
import assert from "node:assert/strict";
import { findEtcd } from "../../lib/embedded/embedded.ts";
import { defaultSearch } from "../../lib/embedded/search.ts";
import { eventually, type Row, type Session, type World } from "./world.ts";

export interface Step {
  language: "sh" | "sql";
  command: string;
  /** Lines that the page shows under it. */
  shown: string[];
}

/** The steps under a heading of a page, to the next heading of the same rank. */
export function stepsUnder(page: string, heading: string): Step[] {
  const section = page.split(`## ${heading}\n`)[1]?.split("\n## ")[0];
  assert.ok(section, `no section '${heading}'`);
  return [...section.matchAll(/```(sh|sql)\n([\s\S]*?)```/g)]
    .flatMap(([, language, body]) => stepsOf(language as Step["language"], body));
}

function stepsOf(language: Step["language"], body: string): Step[] {
  const found: Step[] = [];
  let open = "";
  for (const line of body.trim().split("\n")) {
    const output = open === "" && /^(?:--|#) (.*)$/.exec(line);
    if (output) {
      assert.ok(found.length > 0, `an output without a command: ${line}`);
      found.at(-1)!.shown.push(squeeze(output[1]));
      continue;
    }
    open += (open && "\n") + line;
    if (language === "sh" || isWhole(open)) {
      found.push({ language, command: open, shown: [] });
      open = "";
    }
  }
  assert.equal(open, "", "a statement without an end");
  return found;
}

/** Whether a statement has come to its end: no `;` in the body of a function counts. */
function isWhole(statement: string): boolean {
  return /(;|\\gset)$/.test(statement) && statement.split("$$").length % 2 === 1;
}

function squeeze(line: string): string {
  return line.trim().replaceAll(/\s+/g, " ");
}

/** A row as psql shows it. */
function asLine(row: Row): string {
  const cell = (value: unknown) => {
    if (value === null) return "";
    return typeof value === "boolean" ? String(value)[0] : String(value);
  };
  return squeeze(Object.values(row).map(cell).join(" | "));
}

/** Runs the steps one after another, in one session; what a step shows may take a moment to come. */
export async function runSteps(steps: Step[], world: World): Promise<void> {
  const user = world.session();
  const variables: Row = {};
  const run = (step: Step) => step.language === "sql" ? runSql(step, user, variables) : etcdctl(step, world);
  for (const step of steps) {
    if (step.shown.length === 0) await run(step);
    else if (step.shown[0].startsWith("ERROR:")) await refuses(step, run);
    else await eventually(async () => compare(step, await run(step)));
  }
}

async function runSql(step: Step, user: Session, variables: Row): Promise<string[]> {
  const kept = step.command.endsWith("\\gset");
  const statement = step.command.replace(/\s*\\gset$/, "")
    .replaceAll(/(?<![:\w]):([a-z]\w*)/g, (text, name) => String(variables[name] ?? text));
  const rows = await user.sql(statement);
  if (kept) {
    assert.equal(rows.length, 1, step.command);
    Object.assign(variables, rows[0]);
  }
  return rows.map(asLine);
}

async function etcdctl(step: Step, world: World): Promise<string[]> {
  const [command, ...args] = step.command.split(" ").map((word) => word.replaceAll("'", ""));
  assert.equal(command, "etcdctl");
  const { etcdctl } = await findEtcd(defaultSearch(), { info() {}, warn() {} });
  const endpoint = new URL(world.etcdDsn.replace("etcd:", "http:")).host;
  const { stdout, success } = await new Deno.Command(etcdctl ?? "etcdctl", {
    args,
    env: { ETCDCTL_ENDPOINTS: endpoint, ETCDCTL_API: "3" },
  }).output();
  assert.ok(success, step.command);
  return new TextDecoder().decode(stdout).trim().split("\n").map(squeeze);
}

function compare(step: Step, lines: string[]): boolean {
  const said = `${step.command}\nshows\n${lines.join("\n")}\nnot\n${step.shown.join("\n")}`;
  assert.equal(lines.length, step.shown.length, said);
  for (const [at, shown] of step.shown.entries()) assert.ok(lines[at].startsWith(shown), said);
  return true;
}

async function refuses(step: Step, run: (step: Step) => Promise<string[]>): Promise<void> {
  const message = await run(step).then(() => undefined, (error) => squeeze(`ERROR: ${error.message}`));
  assert.ok(message?.startsWith(step.shown[0]), `${step.command}\nsays ${message}\nnot ${step.shown[0]}`);
}
