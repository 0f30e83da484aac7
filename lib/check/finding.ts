/** What `config check` finds. */
import { EXIT, type ExitKind, kindOf, sentence } from "../errors.ts";

export interface Finding {
  server: "PostgreSQL" | "etcd";
  /** `advice`: it works, and could be better. */
  state: "ok" | "advice" | "wrong";
  /** Why it is wrong, as exit codes tell it. */
  kind?: ExitKind;
  what: string;
  /** Statements or commands that put it right. */
  remedy?: string[];
}

/** The worst first: who is not reached has shown nothing of the rest. */
const WORST: ExitKind[] = ["connection", "permission", "configuration", "runtime"];

/** The exit code for all of it. */
export function exitCode(findings: Finding[]): number {
  const kind = WORST.find((kind) =>
    findings.some((finding) => finding.state === "wrong" && finding.kind === kind)
  );
  return kind === undefined ? EXIT.done : EXIT[kind];
}

/** A finding from what broke a question. */
export function broken(server: Finding["server"], what: string, error: unknown, remedy?: string[]): Finding {
  const reason = what === "" ? sentence(error) : `${what}: ${sentence(error)}`;
  return { server, state: "wrong", kind: kindOf(error), what: reason, remedy };
}

export function findingsText(findings: Finding[]): string {
  const lines: string[] = [];
  for (const server of ["PostgreSQL", "etcd"] as const) {
    lines.push(server);
    for (const { state, what, remedy = [] } of findings.filter((finding) => finding.server === server)) {
      lines.push(`  ${state.padEnd(6)}  ${what}`, ...remedy.map((line) => `          ${line}`));
    }
  }
  return lines.join("\n");
}
