/** The parts of docs/configuration.md that are made from the tables of settings and variables. `deno task settings` writes them. */
import { type Name, NAMES, setting, variableOf } from "../../lib/settings/table.ts";
import { OTHER_VARIABLES } from "../../lib/settings/variables.ts";

const PATH = new URL("../../docs/configuration.md", import.meta.url);

function table(head: string[], rows: string[][]): string {
  const cells = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column].length)));
  const line = (row: string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`;
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n");
}

function settings(): string {
  const code = (text: string) => `\`${text}\``;
  const row = (name: Name) => {
    const { what, type, default: otherwise, reload } = setting(name);
    const at = name.endsWith("-dsn") ? "login only" : reload ? "yes" : "no";
    return [code(name), what, type.description!, otherwise ? code(otherwise) : "", at];
  };
  return table(["setting", "what it is", "a value is", "default", "SIGHUP"], NAMES.map(row));
}

function variables(): string {
  const settings = `as \`${variableOf("stream")}\` for \`stream\`: any setting above`;
  const rows = Object.entries(OTHER_VARIABLES).map(([name, what]) => [`\`${name}\``, what]);
  return table(["variable", "what it is"], [["`ETCD_PG_SYNC_…`", settings], ...rows]);
}

/** The page with the generated parts as they should be. */
export function withSettings(page: string): string {
  const put = (text: string, name: string, body: string) => {
    const block = new RegExp(`(<!-- ${name}: deno task settings -->)[\\s\\S]*?(<!-- end -->)`);
    if (!block.test(text)) throw new Error(`Cannot find the place of the ${name} in docs/configuration.md`);
    return text.replace(block, (_, open, close) => `${open}\n\n${body}\n\n${close}`);
  };
  return put(put(page, "settings", settings()), "variables", variables());
}

export function readPage(): string {
  return Deno.readTextFileSync(PATH);
}

if (import.meta.main) Deno.writeTextFileSync(PATH, withSettings(readPage()));
