/** What the status page is told, in the words of `status`: the page only puts them in their places. Pure. */
import { countText, plural, timeText } from "./human.ts";
import { facts, findingCounts } from "./screen.ts";
import type { Finding, Status } from "./status.ts";

/** What the instance that serves the page knows of itself. */
export interface Own {
  role: string;
  /** As its readiness probe says it. */
  ready: { good: boolean; why: string };
  /** null: it is not the leader. */
  state: string | null;
  /** The scan under way. */
  scan: { keys: number; remaining: number } | null;
}

/** A row of the audit. */
export interface AuditEvent {
  id: number;
  kind: string;
  /** null also where keys are not shown. */
  key: string | null;
  revision: number | null;
  detail: Record<string, unknown>;
  /** ISO 8601. */
  ts: string;
}

export interface View {
  /** Names the page's own code: another one wants a reload. */
  code: string;
  version: string;
  stream: string;
  /** What is mirrored, and where to. */
  mirrors: string;
  /** null: not known. */
  healthy: boolean | null;
  verdict: string;
  instance: { role: string; good: boolean; why: string };
  state: string | null;
  progress: { share: number; text: string } | null;
  findings: Finding[];
  facts: [label: string, text: string][];
  events: { id: number; at: string; kind: string; revision: string; text: string }[];
}

/** @param looked the last status, and how long ago it was, in seconds; undefined: there was none */
export function viewOf(
  program: Pick<View, "code" | "version" | "stream">,
  own: Own,
  looked: { status: Status; age: number } | undefined,
  events: AuditEvent[],
): View {
  const status = looked?.status;
  return {
    ...program,
    mirrors: status ? `'${status.prefix}' in schema '${status.schema}'` : "",
    ...verdict(looked),
    instance: { role: own.role, ...own.ready },
    state: own.state ?? status?.postgres.report?.stream?.state ?? null,
    progress: own.scan && progress(own.scan),
    findings: status?.findings ?? [],
    facts: status ? facts(status) : [],
    events: events.map(eventLine),
  };
}

/** A look is made every second; one that waits for a server takes some more. */
const OLD_SECONDS = 4;

/** What was well when the servers last answered is not well now: nobody knows. */
function verdict(looked: { status: Status; age: number } | undefined): Pick<View, "healthy" | "verdict"> {
  if (!looked) return { healthy: null, verdict: "looking" };
  const { status, age } = looked;
  const said = `${status.healthy ? "healthy" : "not healthy"}${findingCounts(status)}`;
  if (age <= OLD_SECONDS) return { healthy: status.healthy, verdict: said };
  return { healthy: null, verdict: `not known; at ${timeText(status.at)} ${said}` };
}

function progress({ keys, remaining }: NonNullable<Own["scan"]>): View["progress"] {
  return {
    share: keys / Math.max(keys + remaining, 1),
    text: `${plural(keys, "key")} read, ${countText(remaining)} left`,
  };
}

function eventLine({ id, kind, key, revision, detail, ts }: AuditEvent): View["events"][number] {
  const told = Object.entries(detail).map(([name, value]) => `${name.replaceAll("_", " ")} ${plain(value)}`);
  return {
    id,
    at: timeText(ts),
    kind,
    revision: revision === null ? "" : String(revision),
    text: [...(key === null ? [] : [`'${key}'`]), ...told].join(", "),
  };
}

function plain(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
