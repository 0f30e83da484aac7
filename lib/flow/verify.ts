/**
 * The background verifier: compares everything with etcd once in a while, on sessions of its own that are open only while it
 * runs, and rests as long as it works. It repairs nothing: a mirror that differs wants somebody to ask why. Who has asked,
 * requests a resync, which repairs.
 */
import { keyBytes, keyText } from "../core/codec.ts";
import { codeOf, Fatal, kindOf, sentence } from "../errors.ts";
import { Backoff, sleep } from "../lifecycle.ts";
import { Session } from "../postgres/client.ts";
import { finishResync, startResync } from "../postgres/control.ts";
import { verifyDue } from "../postgres/verify.ts";
import { Progress } from "../progress.ts";
import type { Leadership, Stream } from "../stream.ts";
import { countOf, type Verdict, verify } from "../verify.ts";

/** Another instance, or somebody by hand, may have compared meanwhile. */
const LOOK_AGAIN_MS = 3_600_000;
const TRY_AGAIN_MS = 600_000;
/** SIGHUP changes them. */
const SETTINGS_EVERY_MS = 1_000;

/** Runs beside the mirror until `signal` aborts. What cannot be compared now is compared later. */
export async function verifyOften(stream: Stream, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const { verifyEveryMs } = stream.settings;
    try {
      const due = verifyEveryMs === null ? Infinity : await untilDue(stream, verifyEveryMs);
      if (due > 0) await rest(stream, verifyEveryMs, Math.min(due, LOOK_AGAIN_MS), signal);
      else tell(stream, await verify(stream, { signal, gentle: true }));
    } catch (error) {
      if (signal.aborted) return;
      const fields = { code: codeOf(error), error: sentence(error) };
      stream.log.warn(fields, "the mirror could not be compared with etcd; later again");
      await rest(stream, verifyEveryMs, Math.min(verifyEveryMs!, TRY_AGAIN_MS), signal);
    }
  }
}

/** Sleeps, while it is to be compared so often. */
async function rest(
  { settings }: Stream,
  verifyEveryMs: number | null,
  ms: number,
  signal: AbortSignal,
): Promise<void> {
  const end = performance.now() + ms;
  for (let left = ms; left > 0 && settings.verifyEveryMs === verifyEveryMs && !signal.aborted;) {
    await sleep(Math.min(left, SETTINGS_EVERY_MS), signal);
    left = end - performance.now();
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
    { code: "EPS-611", revision, missing, extra, different, keys: verdict.shown.map(({ key }) => key) },
    "the mirror differs from etcd; 'etcd-pg-sync validate' says where, with --fix it repairs",
  );
}

/** Sees to the requests to compare again, one after another, until `signal` aborts; what is left is for the next leader. */
export async function attendResyncs(
  stream: Stream,
  { control }: Leadership,
  signal: AbortSignal,
): Promise<void> {
  const backoff = new Backoff();
  // not in the order of their ids: one can be committed after a higher one is done
  for (let done: number | null = null; !signal.aborted;) {
    await control.until(() => control.resync !== null && control.resync !== done, signal);
    if (signal.aborted) return;
    const id = control.resync!;
    try {
      await resync(stream, id, signal);
      done = id;
      backoff.reset();
    } catch (error) {
      if (signal.aborted) return;
      const fields = { code: codeOf(error), id, error: sentence(error) };
      stream.troubles.tell("resync", fields, "a resync could not be done; trying on");
      await backoff.pause(signal);
    }
  }
}

async function resync(stream: Stream, id: number, signal: AbortSignal): Promise<void> {
  await using session = await Session.open(stream.postgres);
  const prefix = await startResync(session, id);
  stream.log.info({ id, prefix }, "resync: comparing with etcd");
  using progress = new Progress(stream.log, "resync");
  try {
    const { revision, keys, missing, extra, different, repaired } = await verify(stream, {
      signal,
      prefix: prefix === keyText(stream.settings.prefix) ? undefined : keyBytes(prefix),
      fix: true,
      progress: (keys, remaining) => progress.page(keys, remaining),
    });
    const result = { revision, keys, missing, extra, different, repaired };
    await finishResync(session, id, { result, error: null });
    stream.log.info({ id, prefix, ...result }, "resync: done");
  } catch (error) {
    // what passes is tried on
    if (signal.aborted || !(error instanceof Fatal) || kindOf(error) !== "runtime") throw error;
    await finishResync(session, id, { result: null, error: sentence(error) });
    stream.log.error({ code: codeOf(error), id, error: sentence(error) }, "a resync was given up");
  }
}
