/** Keys and values of the mirrored data are taken out of what is shown to whoever can open a page. Pure. */
import type { Seen } from "./advise.ts";

/** Stands where a key would. */
export const HIDDEN = "…";

/** What a status was made of, without keys; what is concluded from it then has none either. */
export function withoutKeys(seen: Seen): Seen {
  const { report } = seen.postgres;
  if (!report) return seen;
  const { stream, wal, losses, resyncs, events } = report;
  return {
    ...seen,
    postgres: {
      ...seen.postgres,
      report: {
        ...report,
        stream: stream && { ...stream, scan_cursor: stream.scan_cursor === null ? null : HIDDEN },
        wal: { ...wal, oldest: wal.oldest && { ...wal.oldest, key: null } },
        losses: { ...losses, newest: losses.newest.map((loss) => ({ ...loss, key: null, message: null })) },
        resyncs: resyncs.map((resync) => ({ ...resync, prefix: HIDDEN })),
        events: Object.fromEntries(
          Object.entries(events).map((
            [kind, event],
          ) => [kind, { ...event, detail: detailWithoutKeys(event.detail) }]),
        ),
      },
    },
  };
}

/** Text in an event's detail that can hold no key; of any other member only numbers and truth values are shown. */
const WITHOUT_KEYS = ["outcome", "state", "by", "since", "txid", "holder", "cluster_id", "old_cluster_id"];

/** An event's detail without what may be, or may quote, a key. */
export function detailWithoutKeys(detail: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(detail).filter(([name, value]) =>
      typeof value === "number" || typeof value === "boolean" || WITHOUT_KEYS.includes(name)
    ),
  );
}
