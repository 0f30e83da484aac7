/** Where a value comes from. */
export type Source =
  | { kind: "flag" | "variable"; name: string }
  | { kind: "file"; path: string; line: number }
  /** The content of a file that another setting names. */
  | { kind: "secret-file"; path: string; by: Source }
  | { kind: "default" };

/** As messages and `config` name it: `--stream`, `ETCD_PG_SYNC_STREAM`, `sync.yaml:3`. */
export function sourceText(source: Source): string {
  switch (source.kind) {
    case "flag":
    case "variable":
      return source.name;
    case "file":
      return `${source.path}:${source.line}`;
    case "secret-file":
      return `${source.path} (named by ${sourceText(source.by)})`;
    case "default":
      return "default";
  }
}

/** The stronger goes first: flags, then variables, then the file. */
export function rank(source: Source): number {
  if (source.kind === "secret-file") return rank(source.by);
  return ["flag", "variable", "file", "default"].indexOf(source.kind);
}
