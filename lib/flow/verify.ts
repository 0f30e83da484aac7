/**
 * The background verifier: compares everything with etcd once in a while, on sessions of its own that are open only while it
 * runs, and rests as long as it works. It repairs nothing: a mirror that differs wants somebody to ask why.
 */
import { sentence } from "../errors.ts";
import { sleep } from "../lifecycle.ts";
import { Session } from "../postgres/client.ts";
import { verifyDue } from "../postgres/verify.ts";
import { Progress } from "../progress.ts";
import type { Stream } from "../stream.ts";
import { countOf, type Verdict, verify } from "../verify.ts";

/** Another instance, or somebody by hand, may have compared meanwhile. */
const LOOK_AGAIN_MS = 3_600_000;
const TRY_AGAIN_MS = 600_000;

/** Runs beside the mirror until `signal` aborts. What cannot be compared now is compared later. */
export async function verifyOften(stream: Stream, signal: AbortSignal): Promise<void> {
  const { verifyEveryMs } = stream.settings;
  while (verifyEveryMs !== null && !signal.aborted) {
    try {
      const due = await untilDue(stream, verifyEveryMs);
      if (due > 0) await sleep(Math.min(due, LOOK_AGAIN_MS), signal);
      else tell(stream, await verify(stream, { signal, gentle: true }));
    } catch (error) {
      if (signal.aborted) return;
      stream.log.warn({ error: sentence(error) }, "the mirror could not be compared with etcd; later again");
      await sleep(Math.min(verifyEveryMs, TRY_AGAIN_MS), signal);
    }
  }
}

async function untilDue(stream: Stream, everyMs: number): Promise<number> {
  await using session = await Session.open(stream.postgres);
  return await verifyDue(session, everyMs);
}

function tell(stream: Stream, verdict: Verdict): void {
  const { revision, keys, missing, extra, different, seconds } = verdict;
  if (countOf(verdict) === 0) {
    stream.log.info({ revision, keys, seconds }, "compared with etcd: the mirror is equal");
    return;
  }
  stream.log.error(
    { revision, missing, extra, different, keys: verdict.shown.map(({ key }) => key) },
    "the mirror differs from etcd; 'etcd-pg-sync validate' says where, with --fix it repairs",
  );
}

/**
 * Compares the keys that begin with `prefix`, which have the stream's (undefined: everything), and repairs what differs,
 * as far as `signal` lets it; with progress.
 * @throws {Fatal} where it cannot be compared, or `signal` aborts
 */
export async function verifyAndRepair(
  stream: Stream,
  prefix: Uint8Array | undefined,
  signal: AbortSignal,
): Promise<Verdict> {
  const progress = new Progress(stream.log, "resync");
  try {
    return await verify(stream, {
      signal,
      prefix,
      fix: true,
      progress: (keys, remaining) => progress.page(keys, remaining),
    });
  } finally {
    progress.stop();
  }
}
