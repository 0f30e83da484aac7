/** What an error means for the program: one table for codes, exit codes and retries, decided by code, never by message. */
import type { Code } from "./core/codes.ts";
import { STATUS } from "./etcd/error.ts";

/** By the first digit of a code, see lib/core/codes.ts. */
export const EXIT = {
  done: 0,
  configuration: 1,
  connection: 2,
  permission: 3,
  runtime: 4,
  differences: 5,
  unhealthy: 6,
} as const;
export type ExitKind = Exclude<keyof typeof EXIT, "done">;

/** What is said where nothing more is known. */
const GENERAL: Partial<Record<ExitKind, Code>> = {
  configuration: "EPS-100",
  connection: "EPS-200",
  permission: "EPS-300",
};

/** Ends the program with one line and an exit code. */
export class Fatal extends Error {
  readonly code: Code;

  /** @param what its code, or only the kind where none is more telling */
  constructor(what: Code | ExitKind, message: string) {
    super(message);
    this.name = "Fatal";
    this.code = what in EXIT ? GENERAL[what as ExitKind] ?? "EPS-400" : what as Code;
  }

  get kind(): ExitKind {
    return exitKind(this.code);
  }
}

/** This instance is no longer, or not surely, the writer: it begins anew as a leader or a standby. */
export class LostPlace extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "LostPlace";
  }
}

/** SQLSTATE classes and codes of PostgreSQL (Appendix A of its manual), the longest match counts. */
const SQLSTATE: [prefix: string, code: Code][] = [
  ["28", "EPS-301"],
  ["42501", "EPS-302"],
  ["3D", "EPS-203"],
  ["08", "EPS-202"],
  ["25006", "EPS-204"], // a standby, or a primary that has become one: there may be another
  ["53", "EPS-205"],
  ["55P03", "EPS-403"],
  ["57", "EPS-206"],
];

const SYSTEM = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ENOTFOUND",
  "EHOSTUNREACH",
  "ETIMEDOUT",
  "EPIPE",
  "EAI_AGAIN",
  "ENOENT",
]);

const GRPC: Record<number, Code> = {
  [STATUS.UNAVAILABLE]: "EPS-211",
  [STATUS.DEADLINE_EXCEEDED]: "EPS-212",
  [STATUS.INTERNAL]: "EPS-211", // an answer that cannot be read; etcd has no use of it
  [STATUS.UNAUTHENTICATED]: "EPS-311",
  [STATUS.PERMISSION_DENIED]: "EPS-312",
};

/** An error of the system's sockets. */
export function isSystemError(error: unknown): boolean {
  return SYSTEM.has((error as { code?: string }).code ?? "");
}

/** The code of an error of this program, of PostgreSQL, of etcd or of the system. */
export function codeOf(error: unknown): Code {
  if (error instanceof Fatal) return error.code;
  if (error instanceof LostPlace) return "EPS-701";
  const code = (error as { code?: unknown }).code;
  if (typeof code === "number") return GRPC[code] ?? "EPS-402";
  if (typeof code !== "string") {
    return error instanceof AggregateError && error.errors.length ? codeOf(error.errors[0]) : "EPS-400";
  }
  if (SYSTEM.has(code)) return "EPS-201";
  return SQLSTATE.find(([prefix]) => code.startsWith(prefix))?.[1] ??
    (/^[0-9A-Z]{5}$/.test(code) ? "EPS-401" : "EPS-400");
}

/** What a code ends the program with. What has no exit code of its own ends nothing; where it does, it is `runtime`. */
export function exitKind(code: Code): ExitKind {
  const digit = Number(code.slice(4, 5));
  return (Object.keys(EXIT) as ExitKind[]).find((kind) => code.startsWith("EPS-") && EXIT[kind] === digit) ??
    "runtime";
}

/** What kind of trouble an error of PostgreSQL, etcd or the system is. */
export function kindOf(error: unknown): ExitKind {
  return exitKind(codeOf(error));
}

export type Server = "postgres" | "etcd";

/** The server that fails; null: neither, or the sentence names it. etcd's codes are grpc's numbers. */
export function serverOf(error: unknown): Server | null {
  if (error instanceof Fatal) return null;
  if (error instanceof LostPlace) return error.cause === undefined ? null : serverOf(error.cause);
  if (typeof (error as { code?: unknown }).code === "number") return "etcd";
  return codeOf(error) === "EPS-400" ? null : "postgres";
}

const NAMES: Record<Server, string> = { postgres: "PostgreSQL", etcd: "etcd" };

/** An error's sentence, after the name of the server that fails. */
export function namedSentence(error: unknown): string {
  const server = serverOf(error);
  return server === null ? sentence(error) : `${NAMES[server]}: ${sentence(error)}`;
}

/** An error's sentence. Some of node's carry it only in their parts. */
export function sentence(error: unknown): string {
  if (error instanceof AggregateError && !error.message) return error.errors.map(sentence).join("; ");
  return error instanceof Error ? error.message : String(error);
}
