/** What is in force: flags, then variables, then the file, then defaults; and where each value comes from. */
import { Fatal } from "../errors.ts";
import { readFile } from "./file.ts";
import { rank, type Source, sourceText } from "./source.ts";
import { type Name, NAMES, setting, SETTINGS, type Value, variableOf } from "./table.ts";
import { refuseUnknownVariables } from "./variables.ts";

/** What commander makes of the flags that were given: no defaults, no variables. */
export type Flags = Record<string, unknown>;
export type Environment = Record<string, string>;

/** One value; both undefined where nobody gave one. */
export interface Settled<N extends Name = Name> {
  text: string | undefined;
  value: Value<N> | undefined;
  source: Source;
}

export type Settings = { [N in Name]: Settled<N> };

/**
 * Reads every setting, and the files of secrets. Nothing is connected.
 * @throws {Fatal} one line that names the setting and its source, quotes the value (unless it is secret), and says what
 * is wanted
 */
export function readSettings(flags: Flags, env: Environment): Settings {
  refuseUnknownVariables(env);
  const given = givenValues(flags, env);
  const settled = (name: Name): Settled => {
    const { text, source } = given(name);
    return { text, source, value: text === undefined ? undefined : parse(name, text, source) };
  };
  const settings = Object.fromEntries(NAMES.map((name) => [name, settled(name)])) as Settings;
  fromSecretFile(settings, "postgres-dsn", "postgres-dsn-file");
  fromSecretFile(settings, "etcd-dsn", "etcd-dsn-file");
  return settings;
}

interface Given {
  text: string | undefined;
  source: Source;
}

function givenValues(flags: Flags, env: Environment): (name: Name) => Given {
  const fromFlag = (name: string): Given | undefined => {
    const value = flags[camelCase(name)];
    return value === undefined
      ? undefined
      : { text: String(value), source: { kind: "flag", name: `--${name}` } };
  };
  // an empty variable is none, as a compose file or a unit writes one
  const fromVariable = (name: string): Given | undefined => {
    const variable = variableOf(name);
    return env[variable] ? { text: env[variable], source: { kind: "variable", name: variable } } : undefined;
  };
  const config = fromFlag("config") ?? fromVariable("config");
  const file = config && readFile(config.text!, sourceText(config.source));
  const fromFile = (name: Name): Given | undefined => {
    const found = file?.get(name);
    return found && { text: found.text, source: { kind: "file", path: config!.text!, line: found.line } };
  };
  return (name) =>
    fromFlag(name) ?? fromVariable(name) ?? fromFile(name) ??
      { text: setting(name).default, source: { kind: "default" } };
}

/** As commander names a flag's value. */
function camelCase(name: string): string {
  return name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
}

function parse(name: Name, text: string, source: Source): Value<Name> {
  const { type, secret } = setting(name);
  const parsed = type.safeParse(text);
  if (parsed.success) return parsed.data as Value<Name>;
  const got = secret && text !== "" ? "" : `, got '${text}'`;
  return refuse(name, source, `wanted ${type.description}${got}`);
}

/** @throws {Fatal} */
export function refuse(name: string, source: Source, what: string): never {
  throw new Fatal("configuration", `Cannot read '${name}' from ${sourceText(source)}: ${what}`);
}

/** The stronger source counts; from two that are as strong nobody knows which was meant. */
function fromSecretFile(
  settings: Settings,
  name: "postgres-dsn" | "etcd-dsn",
  fileName: "postgres-dsn-file" | "etcd-dsn-file",
): void {
  const { text: path, source: by } = settings[fileName];
  if (path === undefined) return;
  const direct = settings[name];
  if (direct.text !== undefined && rank(direct.source) < rank(by)) return;
  if (direct.text !== undefined && rank(direct.source) === rank(by)) {
    throw new Fatal(
      "configuration",
      `Cannot use both '${name}' from ${sourceText(direct.source)} and '${fileName}' from ${
        sourceText(by)
      }: give one`,
    );
  }
  const source: Source = { kind: "secret-file", path, by };
  const text = readSecret(fileName, path, by);
  settings[name] = { text, source, value: parse(name, text, source) as string };
}

function readSecret(name: Name, path: string, source: Source): string {
  try {
    const text = Deno.readTextFileSync(path).trim(); // editors and `echo` end a file with a line break
    if (/[\r\n]/.test(text)) refuse(name, source, `wanted a file of one line, got '${path}'`);
    return text;
  } catch (error) {
    if (error instanceof Fatal) throw error;
    return refuse(name, source, `wanted a file that can be read (${(error as Error).name}), got '${path}'`);
  }
}

/** The value, which the table says has a default. */
export function value<N extends keyof typeof SETTINGS>(settings: Settings, name: N): Value<N> {
  return settings[name].value as Value<N>;
}
