/** The mirror's rows beside a page: in a resync PostgreSQL gets no more of it than what differs. */
import { PageDiff } from "../core/page_diff.ts";
import { type Selection, textBounds } from "../core/plan.ts";
import type { Page } from "../core/words.ts";
import type { Session } from "./client.ts";
import { copyOut, plainRows } from "./copy_rows.ts";

const ESCAPED_IN_RANGE = `select exists (select from etcd_kv k where strpos(k.key, '\\x') > 0
    and etcd_key_bytes(k.key) >= $1 and ($2::bytea is null or etcd_key_bytes(k.key) < $2)) as found`;

/**
 * How the page differs from the rows of its range; null: it holds keys that have to be compared in PostgreSQL. The caller
 * is the only writer of these rows until it has merged the page, so they are still like this then.
 */
export async function diffPage(
  session: Session,
  page: Page,
  select: Selection,
  timeline: number,
): Promise<PageDiff | null> {
  return await session.transaction(async () => {
    const range = [page.from, textBounds(page).end];
    const [escaped] = await session.run<{ found: boolean }>("escaped-in-range", ESCAPED_IN_RANGE, range);
    if (escaped.found) return null;
    const diff = new PageDiff(page.keys, select, timeline);
    if (!diff.comparable) return null;
    for await (const rows of copyOut(session, plainRows(page))) while (rows.next()) diff.add(rows);
    diff.end();
    return diff.comparable ? diff : null;
  }, { again: true });
}
