/** `config`: what is in force, and where from; `config check`: whether the servers give what is needed. */
import { type Command, Option } from "commander";
import { checkEtcd } from "../check/etcd.ts";
import { exitCode, type Finding, findingsText } from "../check/finding.ts";
import { checkPostgres } from "../check/postgres.ts";
import { checkGiven, fillingVariables, type Flags, readConfig, shown } from "../config.ts";
import { makeLog } from "../log.ts";
import { readSettings } from "../settings/read.ts";
import { sourceText } from "../settings/source.ts";
import { NAMES, setting } from "../settings/table.ts";
import { answer, connectionOptions, type Format, streamOptions } from "./options.ts";

type Formatted = Flags & { format?: Format };

export function addConfig(program: Command): void {
  const config = program.command("config").description(
    "show what is in force, and where each value comes from",
  )
    .enablePositionalOptions();
  const check = config.command("check")
    .description("ask both servers for versions, rights and limits; nothing is written");
  for (const command of [config, check]) {
    streamOptions(connectionOptions(command))
      .addOption(
        new Option("--format <format>", "how to print it, text if not given").choices(["text", "json"]),
      );
  }
  config.action(show);
  check.action((flags: Formatted) => run({ ...config.opts(), ...flags })); // `config -p … check` too
}

/** Also where a DSN is missing; nothing is connected. */
function show(flags: Formatted): void {
  const env = Deno.env.toObject();
  const settings = readSettings(flags, env);
  checkGiven(settings, env);
  const rows = NAMES.map((name) => {
    const { text, source } = settings[name];
    return {
      name,
      value: shown(text, setting(name).secret) ?? null,
      source: source.kind,
      from: sourceText(source),
    };
  });
  const variables = Object.fromEntries(
    fillingVariables(env).map((name) => [name, variableText(name, env[name])]),
  );
  answer(flags.format, { settings: rows, variables }, table(rows, variables));
}

type Row = { name: string; value: string | null; from: string };

function table(rows: Row[], variables: Record<string, string>): string {
  const cells = [
    ["setting", "value", "from"],
    ...rows.map(({ name, value, from }) => [name, value ?? "-", from]),
  ];
  const widths = [0, 1].map((column) => Math.max(...cells.map((row) => row[column].length)));
  const lines = cells.map(([name, value, from]) =>
    `${name.padEnd(widths[0])}  ${value.padEnd(widths[1])}  ${from}`
  );
  const filling = Object.entries(variables).map(([name, value]) => `  ${name}=${value}`);
  if (filling.length > 0) lines.push("", "for what the DSNs leave out:", ...filling);
  return lines.join("\n");
}

/** A password can stand in ETCDCTL_USER too, behind its colon. */
function variableText(name: string, value: string): string {
  if (name.endsWith("PASSWORD")) return "…";
  if (name === "ETCDCTL_USER") return value.split(":")[0];
  return name === "ETCDCTL_ENDPOINTS" && value.includes("@") ? "…" : value;
}

async function run(flags: Formatted): Promise<void> {
  const config = readConfig(flags);
  const { findings: postgres, streamId } = await checkPostgres(config, makeLog(config.log));
  const findings: Finding[] = [...postgres, ...await checkEtcd(config, streamId)];
  const code = exitCode(findings);
  answer(flags.format, { ok: code === 0, findings }, findingsText(findings));
  Deno.exit(code);
}
