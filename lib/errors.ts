/** What an error means for the program: one table for exit codes and retries, decided by code, never by message. */
import * as grpc from "@grpc/grpc-js";

export const EXIT = {
  done: 0,
  configuration: 1,
  connection: 2,
  permission: 3,
  runtime: 4,
  differences: 5,
} as const;
export type ExitKind = Exclude<keyof typeof EXIT, "done" | "differences">;

/** Ends the program with one line and an exit code. */
export class Fatal extends Error {
  constructor(readonly kind: ExitKind, message: string) {
    super(message);
    this.name = "Fatal";
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
const SQLSTATE: [prefix: string, kind: ExitKind][] = [
  ["28", "permission"],
  ["42501", "permission"],
  ["3D", "connection"],
  ["08", "connection"],
  ["53", "connection"],
  ["57", "connection"],
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

const GRPC: Partial<Record<grpc.status, ExitKind>> = {
  [grpc.status.UNAVAILABLE]: "connection",
  [grpc.status.DEADLINE_EXCEEDED]: "connection",
  [grpc.status.INTERNAL]: "connection", // grpc-js's own, of a connection that broke under a call
  [grpc.status.UNAUTHENTICATED]: "permission",
  [grpc.status.PERMISSION_DENIED]: "permission",
};

/** What kind of trouble an error of PostgreSQL, etcd or the system is. */
export function kindOf(error: unknown): ExitKind {
  if (error instanceof Fatal) return error.kind;
  const code = (error as { code?: unknown }).code;
  if (typeof code === "number") return GRPC[code as grpc.status] ?? "runtime";
  if (typeof code !== "string") {
    return error instanceof AggregateError && error.errors.length ? kindOf(error.errors[0]) : "runtime";
  }
  if (SYSTEM.has(code)) return "connection";
  return SQLSTATE.find(([prefix]) => code.startsWith(prefix))?.[1] ?? "runtime";
}

/** An error's sentence. Some of node's carry it only in their parts. */
export function sentence(error: unknown): string {
  if (error instanceof AggregateError && !error.message) return error.errors.map(sentence).join("; ");
  return error instanceof Error ? error.message : String(error);
}
