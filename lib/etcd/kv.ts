/** Reading keys and pages, and the transaction that the drain sends. */
import { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import type { KeyValue } from "../core/words.ts";
import type { TxnAnswer, TxnPlan } from "../core/txn.ts";
import { type EtcdClient, EtcdError } from "./client.ts";
import { decodeRangeResponse, type RangeResponse } from "./wire.ts";

/** The revision asked for is compacted. */
export function isCompacted(error: unknown): boolean {
  return error instanceof EtcdError && error.code === grpc.status.OUT_OF_RANGE && !isFuture(error);
}

/** The revision asked for is ahead of etcd. Only its text tells it from a compacted one: both are OUT_OF_RANGE (etcd's rpctypes). */
export function isFuture(error: unknown): boolean {
  return error instanceof EtcdError && error.code === grpc.status.OUT_OF_RANGE &&
    error.message === "etcdserver: mvcc: required revision is a future revision";
}

/** The answer is bigger than one message may be. */
export function isTooLarge(error: unknown): boolean {
  return error instanceof EtcdError && error.code === grpc.status.RESOURCE_EXHAUSTED;
}

/**
 * Keys from `from` up to `to`, now (linearizable) or at a past revision.
 * @throws {EtcdError} see `isCompacted`, `isFuture` and `isTooLarge`
 */
export function readRange(
  client: EtcdClient,
  from: Uint8Array,
  to: Uint8Array,
  limit: number,
  revision = 0,
): Promise<RangeResponse> {
  return client.fetch(
    "KV",
    "Range",
    { key: Buffer.from(from), range_end: Buffer.from(to), limit, revision },
    {
      decode: decodeRangeResponse,
      timeoutMs: 60_000,
      repeatable: true,
    },
  );
}

export interface KeyRead {
  clusterId: string;
  /** etcd's revision at the time of the read. */
  revision: number;
  kv: KeyValue | undefined;
}

/**
 * One key, now (linearizable) or at a past revision.
 * @throws {EtcdError} see `isCompacted`
 */
export async function readKey(client: EtcdClient, key: Uint8Array, revision = 0): Promise<KeyRead> {
  const answer = await client.call("KV", "Range", { key: Buffer.from(key), revision }, {
    decode: decodeRangeResponse,
    repeatable: true,
  });
  const [kv] = answer.keys;
  return { clusterId: answer.header.clusterId, revision: answer.header.revision, kv };
}

interface RawTxn {
  header: { revision: string; cluster_id: string };
  succeeded: boolean;
  responses: { response_range?: { kvs: { key: Buffer; mod_revision: string; value: Buffer }[] } }[];
}

/**
 * Sends one transaction, once.
 * @throws {EtcdError} `isLostAnswer` tells whether it may have been applied
 */
export async function sendTxn(client: EtcdClient, plan: TxnPlan): Promise<TxnAnswer & { clusterId: string }> {
  const raw = await client.call<RawTxn>("KV", "Txn", {
    compare: plan.compares.map(({ key, revision }) => ({
      result: "Equal",
      target: "Mod",
      key: Buffer.from(key),
      mod_revision: revision,
    })),
    success: plan.writes.map((write) =>
      write.value === null ? { request_delete_range: { key: Buffer.from(write.key) } } : {
        request_put: {
          key: Buffer.from(write.key),
          value: Buffer.from(write.value),
          ignore_lease: write.keepLease,
        },
      }
    ),
    failure: plan.compares.map(({ key }) => ({ request_range: { key: Buffer.from(key), keys_only: true } })),
  });
  return {
    applied: raw.succeeded,
    clusterId: raw.header.cluster_id,
    revision: Number(raw.header.revision),
    found: raw.succeeded ? [] : raw.responses.map((r) => Number(r.response_range?.kvs[0]?.mod_revision ?? 0)),
  };
}

/** Codes after which a write may or may not have been applied. */
const LOST_ANSWERS = new Set([
  grpc.status.UNAVAILABLE,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.CANCELLED,
  grpc.status.UNKNOWN,
  grpc.status.INTERNAL,
  grpc.status.ABORTED,
  grpc.status.DATA_LOSS,
]);

/** Applied, not applied, unknown: this is unknown. */
export function isLostAnswer(error: unknown): boolean {
  return !(error instanceof EtcdError) || !error.unsent && LOST_ANSWERS.has(error.code);
}

/** etcd's own refusals for want of room (its rpctypes); grpc uses the same code for a message that is too large. */
const PASSING = new Set(["etcdserver: too many requests", "etcdserver: mvcc: database space exceeded"]);

/** Not carried out, but may be later: no server, no space, too many requests, a token that ended. */
export function isPassing(error: unknown): boolean {
  return error instanceof EtcdError &&
    (error.unsent && error.code !== grpc.status.PERMISSION_DENIED ||
      error.code === grpc.status.UNAUTHENTICATED || PASSING.has(error.message));
}

/** etcd's version, as `3.7.3`. */
export async function serverVersion(client: EtcdClient): Promise<string> {
  return (await client.call<{ version: string }>("Maintenance", "Status", {}, { repeatable: true })).version;
}
