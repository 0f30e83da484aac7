/** The file of settings: YAML, one `name: value` a line. */
import { isMap, isScalar, LineCounter, parseDocument, type Scalar } from "yaml";
import { Fatal } from "../errors.ts";
import { didYouMean } from "./nearest.ts";
import { type Name, NAMES, setting } from "./table.ts";

export interface FileValue {
  text: string;
  line: number;
}

/**
 * What the file sets.
 * @param from where its path was given
 * @throws {Fatal} one line with file and line; no value is quoted, it may be a secret in a wrong place
 */
export function readFile(path: string, from: string): Map<Name, FileValue> {
  const lines = new LineCounter();
  const document = parseDocument(readText(path, from), { lineCounter: lines, prettyErrors: false });
  const wrong = (offset: number, what: string): never => {
    throw new Fatal("configuration", `Cannot read '${path}:${lines.linePos(offset).line}': ${what}`);
  };
  // by its code: the library's sentences quote what stands there
  const [error] = document.errors;
  if (error) wrong(error.pos[0], `it is not YAML (${error.code.toLowerCase().replaceAll("_", " ")})`);
  const values = new Map<Name, FileValue>();
  if (document.contents === null || isScalar(document.contents) && document.contents.value === null) {
    return values;
  }
  if (!isMap(document.contents)) {
    return wrong(document.contents.range![0], "wanted lines of 'setting: value'");
  }
  for (const { key, value } of document.contents.items) {
    const at = (key as Scalar).range![0];
    const name = readName(key, (what) => wrong(at, what));
    values.set(name, {
      text: readScalar(name, value, (what) => wrong(at, what)),
      line: lines.linePos(at).line,
    });
  }
  return values;
}

function readText(path: string, from: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new Fatal(
      "configuration",
      `Cannot read 'config' from ${from}: wanted a file that can be read (${
        (error as Error).name
      }), got '${path}'`,
    );
  }
}

function readName(key: unknown, wrong: (what: string) => never): Name {
  const text = isScalar(key) ? String(key.value) : "";
  if (!/^[\w.-]{1,40}$/.test(text)) wrong("wanted the name of a setting before the colon");
  return NAMES.find((name) => name === text) ??
    wrong(`there is no setting '${text}'${didYouMean(text, NAMES)}`);
}

/** As it is written: a number or a truth value reads as a flag's text does. */
function readScalar(name: Name, value: unknown, wrong: (what: string) => never): string {
  const wanted = `'${name}' wants ${setting(name).type.description}`;
  if (!isScalar(value)) {
    return wrong(`${wanted}, got ${value === null ? "nothing" : "a list, a map or a reference"}`);
  }
  if (value.value === null) return wrong(`${wanted}, got nothing`);
  return typeof value.value === "string" ? value.value : value.source ?? String(value.value);
}
